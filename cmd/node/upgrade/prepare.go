package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"brink/cmd/node"
	"brink/internal/initsystem"
	"brink/internal/layout"
	"brink/internal/release"
)

// Request is what somebody asks for.
type Request struct {
	Layout layout.Layout
	// Hold keeps other upgrades out from here to the end of Start.
	Hold *Hold
	// What is a version, a channel, a file or a URL of one.
	What string
	// Mirror is where releases are, empty for where this binary was told.
	Mirror     string
	Force      bool
	NoSnapshot bool
	Limit      time.Duration
	// Uses reports whether a brink with these arguments and variables uses the data directory.
	Uses func(args, env []string) bool
	// Say tells what is being done, a line each.
	Say func(string)
}

// ErrUpToDate is returned where nothing is to be done.
var ErrUpToDate = errors.New("this version runs already")

// Prepare does all that can be done while the old version runs: the new binary lies verified
// and tried beside it, and nothing else has changed. What it returns is for Start.
func Prepare(ctx context.Context, q Request) (r Record, err error) {
	if r, err = current(ctx, q.Layout, q.Hold, q.Uses); err != nil {
		return r, err
	}
	if err := q.check(ctx, r); err != nil {
		return r, err
	}
	r.Limit, r.NoSnapshot, r.Phase = q.Limit, q.NoSnapshot, Replacing
	if err := q.fetch(ctx, &r); err != nil {
		os.Remove(newOf(r.Binary))
		return r, err
	}
	return r, nil
}

// current describes the brink that runs.
func current(ctx context.Context, l layout.Layout, hold *Hold, uses func(args, env []string) bool) (r Record, err error) {
	if err := notUnderWay(l); err != nil {
		return r, err
	}
	status, err := node.AskStatus(ctx, l)
	if err != nil {
		return r, fmt.Errorf("%w: only a brink that runs is upgraded, start it first", err)
	}
	r = Record{From: status.Version(), DataDir: l.Data(), Agent: status.Role == "agent", Elsewhere: status.Elsewhere, WasReady: status.Ready, Begun: time.Now().UTC().Round(time.Second)}
	if r.Binary, err = binaryOf(status.PID); err != nil {
		return r, err
	}
	if err := hold.take(l, r.Binary); err != nil {
		return r, err
	}
	r.Service, err = serviceOf(ctx, status.PID, uses)
	return r, err
}

// binaryOf returns the file that a process runs.
func binaryOf(pid int) (string, error) {
	path, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil {
		return "", fmt.Errorf("finding brink's binary: %w", err)
	}
	running, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil {
		return "", fmt.Errorf("finding brink's binary: %w", err)
	}
	path = strings.TrimSuffix(path, " (deleted)")
	if there, err := os.Stat(path); err != nil || !os.SameFile(running, there) {
		return "", fmt.Errorf("%s was replaced since brink was started: restart brink first", path)
	}
	return path, nil
}

// serviceOf returns the one service that runs brink.
func serviceOf(ctx context.Context, pid int, uses func(args, env []string) bool) (initsystem.Service, error) {
	all, err := initsystem.Find(ctx, initsystem.Query{PID: pid, Uses: uses})
	if err != nil {
		return initsystem.Service{}, err
	}
	for _, s := range all {
		if s.IsDaemon {
			return s, nil
		}
	}
	return initsystem.Service{}, fmt.Errorf("brink, pid %d, is no service of systemd or OpenRC: stop it, replace its binary and start it again by hand; the first start of another version makes a snapshot", pid)
}

// check refuses what needs no download to be known.
func (q Request) check(ctx context.Context, r Record) error {
	if err := packageOf(ctx, r.Binary); err != nil {
		return err
	}
	if !r.WasReady && !q.Force {
		return errors.New("the node is not ready, so a new version could not be judged: see brink status, or give --force")
	}
	if r.Elsewhere && !q.NoSnapshot {
		return errors.New("the state is in a database elsewhere, of which brink makes no snapshot: make a backup with its own tools, then give --no-snapshot")
	}
	return nil
}

// compare refuses versions that must not follow each other.
func (q Request) compare(ctx context.Context, r Record, to release.Version) error {
	if to.String() == r.From && !q.Force {
		return ErrUpToDate
	}
	from, err := release.ParseVersion(r.From)
	if err != nil {
		if q.Force {
			return nil
		}
		return fmt.Errorf("what runs is no release (%w), so nothing tells whether it may become %s: give --force", err, to)
	}
	var server *release.Version
	if r.Agent {
		has, err := ServerVersion(ctx, q.Layout)
		switch {
		case err == nil:
			server = &has
		case !q.Force:
			return fmt.Errorf("an agent must not be newer than its server, whose version cannot be asked: %w: give --force to upgrade all the same", err)
		}
	}
	return checkVersions(from, to, server)
}

// versionOf asks a binary.
func versionOf(ctx context.Context, binary string) (release.Version, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "version", "-o", "json").Output()
	if err != nil {
		return release.Version{}, fmt.Errorf("%s does not run on this machine: %w", binary, err)
	}
	var told struct{ Brink string }
	if err := json.Unmarshal(out, &told); err != nil {
		return release.Version{}, fmt.Errorf("%s is no brink: %w", binary, err)
	}
	return release.ParseVersion(told.Brink)
}

// try has the new binary check the machine, with the flags and variables that the service gives
// to the old one.
func try(ctx context.Context, binary string, pid int) error {
	args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil {
		return err
	}
	environ, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"check"}, checkArgs(strings.Split(string(args), "\x00"))...)...)
	cmd.Env = strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	var failed []string
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "fail") || strings.HasPrefix(line, "brink:") {
			failed = append(failed, strings.Join(strings.Fields(line), " "))
		}
	}
	return fmt.Errorf("the new version says that it cannot run here: %s", strings.Join(failed, "; "))
}

// checkArgs returns the flags of `brink server` or `brink agent` without the token, which is
// hidden from the list of processes and needed no more.
func checkArgs(argv []string) []string {
	var out []string
	for i := 2; i < len(argv); i++ {
		name, _, hasValue := strings.Cut(strings.TrimLeft(argv[i], "-"), "=")
		switch {
		case argv[i] == "":
		case name == "token" || name == "t":
			if !hasValue {
				i++
			}
		default:
			out = append(out, argv[i])
		}
	}
	return out
}
