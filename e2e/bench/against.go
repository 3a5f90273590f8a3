package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"slices"
	"time"
)

// againstPart compares two builds of brink. It is measured only with -against.
const againstPart = "against"

const oldName = "old"

// againstSettings are those of a part that has to be short, as it is run before
// each change is called done: five pairs take half an hour.
const (
	againstPairs  = 5
	againstSettle = 30 * time.Second
	againstIdle   = time.Minute
)

// slack is how much worse a median may be than the old build's where that one's
// own runs differ by less.
const slack = 0.05

// againstMetrics are of what brink itself does. The image's import is not among
// them: how long it takes depends on how much of it is waited for.
var againstMetrics = []metric{
	{"ready", "Start to Ready, new data directory", seconds},
	{"restart", "Start to Ready, existing data", seconds},
	{"pods", fmt.Sprintf("%d pods of a Deployment Ready", manyPods), seconds},
	{"create50", "Create a ConfigMap, p50", milliseconds},
	{"create99", "Create a ConfigMap, p99", milliseconds},
	{"list50", "List 1,000 ConfigMaps, p50", milliseconds},
	{"pss", "Memory, PSS", megabytes},
	{"anon", "Memory, anonymous", megabytes},
	{"cpu", "CPU when idle, of a core", percent},
	{"size", "Size of the program", megabytes},
}

// measureAgainst measures the two builds in turn. The one that begins changes with
// each pair, so that neither always follows the other.
func (r *report) measureAgainst(ctx context.Context, log *slog.Logger) error {
	s := r.settings
	s.settle, s.idle = againstSettle, againstIdle
	if s.load {
		stop, err := loadCore()
		if err != nil {
			return err
		}
		defer stop()
	}
	pair := []struct{ name, binary string }{{brinkName, s.brink}, {oldName, s.against}}
	for i := range s.runs {
		for _, side := range pair {
			s.brink = side.binary
			log := log.With("pair", fmt.Sprintf("%d/%d", i+1, s.runs), "build", side.name)
			one, err := onNewMachine(ctx, log, s, newBrink, func(r *runOf) []func() error {
				return []func() error{r.prepare, r.start, r.startPod, r.settle, r.idle, r.pods, r.api, r.second, r.size}
			})
			if err != nil {
				return fmt.Errorf("pair %d, %s: %w", i+1, side.name, err)
			}
			r.against.add(side.name, one)
		}
		slices.Reverse(pair)
	}
	return nil
}

// loadCore keeps one processor busy until stop is called, as a board's other
// programs do.
func loadCore() (stop func(), err error) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}, nil
}

// againstRow is a metric with the median of each build and whether the new one
// keeps the bar.
type againstRow struct{ Title, New, Old, Ratio, Bar, Runs string }

// againstRows also returns an error that names the medians which are worse than
// the bar allows.
func againstRows(c comparison) (out []againstRow, missed error) {
	for _, m := range againstMetrics {
		now, old := c.values(brinkName, m.key), c.values(oldName, m.key)
		if len(now) == 0 || len(old) == 0 {
			continue
		}
		allowed := 1 + max(slack, ownSpread(old))
		share := median(now) / median(old)
		verdict := "held"
		if share > allowed {
			verdict = "missed"
			missed = errors.Join(missed, fmt.Errorf("%s: %s against %s, %.2f of it, at most %.2f is allowed",
				m.title, m.format(median(now)), m.format(median(old)), share, allowed))
		}
		out = append(out, againstRow{
			Title: m.title, New: cell(m, now), Old: cell(m, old), Ratio: fmt.Sprintf("%.2f", share),
			Bar: fmt.Sprintf("at most %.2f: %s", allowed, verdict), Runs: spread(m, now) + " / " + spread(m, old),
		})
	}
	return out, missed
}

// ownSpread is by how much of its median the worst of a build's own runs lies
// above it: for another median to be no worse than that says nothing.
func ownSpread(values []float64) float64 {
	middle := median(values)
	if middle == 0 {
		return math.Inf(1)
	}
	return slices.Max(values)/middle - 1
}

// openBinary holds a program open, so that a build during the runs does not change
// what is measured.
func openBinary(path string) (file *os.File, held string, err error) {
	file, err = os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("%w; run make build first", err)
	}
	return file, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), nil
}
