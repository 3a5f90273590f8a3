// Command bench measures brink against the same upstream components as separate
// processes: kube-apiserver, kube-controller-manager, kube-scheduler, kubelet,
// kube-proxy, containerd and kine with SQLite, built from the same go.mod. It
// prints a table of medians with ratios; docs/benchmarks.md says how to read it.
//
// Both sides run one after the other, never at once, each on a machine of its
// own: namespaces, an empty /run and private directories, as in the end-to-end
// tests. The runs alternate, so that whatever else the host does meanwhile
// troubles both. scripts/bench builds what is needed and runs this.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// settings are the command line.
type settings struct {
	brink, rival string
	runs         int
	settle, idle time.Duration
	disk         time.Duration
	output       string
	profiles     string
	only         string
	kineEndpoint string
}

func main() {
	if id := os.Getenv(janitorEnv); id != "" {
		runJanitor(id)
		return
	}
	s, err := parse(os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		err = run(ctx, s)
		stop()
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string) (settings, error) {
	var s settings
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&s.brink, "brink", "bin/brink", "the `FILE` to measure")
	fs.StringVar(&s.rival, "rival", ".build/rival", "`DIRECTORY` with the programs of the other side")
	fs.IntVar(&s.runs, "runs", 3, "`NUMBER` of runs of each side; the table has their medians")
	fs.DurationVar(&s.settle, "settle", 2*time.Minute, "`TIME` from the first pod to the look at memory")
	fs.DurationVar(&s.idle, "idle", 2*time.Minute, "`TIME` after that over which CPU is counted")
	fs.DurationVar(&s.disk, "disk", 20*time.Minute, "`TIME` from then on over which disk writes are counted, in the first run of each side: longer than what brink keeps back before it writes")
	fs.StringVar(&s.output, "o", "", "`FILE` to which the table is also written")
	fs.StringVar(&s.profiles, "profiles", "", "`DIRECTORY` for heap and CPU profiles of the idle brink of the first run")
	fs.StringVar(&s.only, "only", "", "`SIDE` to run alone: brink or separate")
	fs.StringVar(&s.kineEndpoint, "kine-endpoint", "", "`URL` of the other side's kine (default: kine's own, SQLite that does not wait for the disk)")
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	if fs.NArg() > 0 || s.runs < 1 {
		return s, fmt.Errorf("takes flags only, and at least one run")
	}
	if s.disk < s.idle {
		return s, fmt.Errorf("-disk=%s: must not be shorter than -idle=%s, with which it begins", s.disk, s.idle)
	}
	if s.only != "" && s.only != brinkName && s.only != separateName {
		return s, fmt.Errorf("-only=%s: must be %s or %s", s.only, brinkName, separateName)
	}
	var errs [3]error
	s.brink, errs[0] = filepath.Abs(s.brink)
	s.rival, errs[1] = filepath.Abs(s.rival)
	s.profiles, errs[2] = absolute(s.profiles)
	return s, errors.Join(errs[:]...)
}

func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

func run(ctx context.Context, s settings) error {
	if os.Getuid() != 0 {
		return errors.New("makes namespaces and runs containers: run it as root")
	}
	// Held open, so that a build during the runs does not change what is measured.
	binary, err := os.Open(s.brink)
	if err != nil {
		return fmt.Errorf("%w; run make build first", err)
	}
	defer binary.Close()
	s.brink = fmt.Sprintf("/proc/self/fd/%d", binary.Fd())
	// The packages that make the other side's certificates log every one.
	slog.SetLogLoggerLevel(slog.LevelWarn)
	progress := slog.New(slog.NewTextHandler(os.Stderr, nil))
	r := report{settings: s, begun: time.Now(), samples: map[string][]sample{}}
	if r.versions, err = versions(s); err != nil {
		return err
	}
	for i := range s.runs {
		for _, side := range sides {
			if s.only != "" && s.only != side.name {
				continue
			}
			log := progress.With("run", fmt.Sprintf("%d/%d", i+1, s.runs), "side", side.name)
			if err := r.add(ctx, log, side, i == 0); err != nil {
				return fmt.Errorf("run %d of %s: %w", i+1, side.name, err)
			}
		}
	}
	return r.publish()
}

// add measures one run of a side. The other side is also asked to create objects
// as durably as brink does.
func (r *report) add(ctx context.Context, log *slog.Logger, side side, first bool) error {
	one, err := measure(ctx, log, r.settings, side.newNode, first)
	if err != nil {
		return err
	}
	if side.name == separateName && r.settings.kineEndpoint == "" {
		more, err := measureDurable(ctx, log.With("kine", "waits for the disk"), r.settings)
		if err != nil {
			return err
		}
		maps.Copy(one, more)
	}
	r.samples[side.name] = append(r.samples[side.name], one)
	return nil
}

// publish prints the report and writes it to the file of -o.
func (r report) publish() error {
	text, err := r.markdown()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(os.Stdout, text); err != nil || r.settings.output == "" {
		return err
	}
	return os.WriteFile(r.settings.output, []byte(text), 0o644)
}
