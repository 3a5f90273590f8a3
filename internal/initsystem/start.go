package initsystem

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
)

// Start starts the service and does not wait until it is ready.
func (s Service) Start(ctx context.Context) error { return here().start(ctx, s) }

func (m machine) start(ctx context.Context, s Service) error {
	name, args := "systemctl", []string{"start", "--no-block", s.Name}
	if s.Init == OpenRC {
		name, args = "rc-service", []string{s.Name, "start"}
	}
	_, err := m.run(ctx, name, args...)
	return err
}

// Restarts returns how often the manager has started the service again since it was started,
// and whether it says.
func (s Service) Restarts(ctx context.Context) (int, bool) { return here().restarts(ctx, s) }

func (m machine) restarts(ctx context.Context, s Service) (int, bool) {
	if s.Init == OpenRC {
		// supervise-daemon's own count, 1 for the first start.
		n, err := strconv.Atoi(strings.TrimSpace(m.read(filepath.Join("run/openrc/options", s.Name, "start_count"))))
		return max(n-1, 0), err == nil
	}
	text, err := m.run(ctx, "systemctl", "show", "-p", "NRestarts", s.Name)
	value, ok := strings.CutPrefix(strings.TrimSpace(text), "NRestarts=")
	n, numberErr := strconv.Atoi(value)
	return n, err == nil && ok && numberErr == nil
}

// IsStopped reports whether somebody has stopped the service, as far as the manager can tell
// that from one that has ended by itself.
func (s Service) IsStopped(ctx context.Context) bool { return here().isStopped(ctx, s) }

func (m machine) isStopped(ctx context.Context, s Service) bool {
	if s.Init == OpenRC {
		for _, state := range []string{"started", "starting", "inactive", "failed"} {
			if m.has(filepath.Join("run/openrc", state, s.Name)) {
				return false
			}
		}
		return true
	}
	text, err := m.run(ctx, "systemctl", "show", "-p", "ActiveState", "-p", "Restart", "-p", "Job", s.Name)
	if err != nil {
		return false
	}
	has := strings.Split(text, "\n")
	job := valueOf(has, "Job") // one that waits to start it
	// One that is always started again is inactive only where somebody wants that.
	return valueOf(has, "ActiveState") == "inactive" && valueOf(has, "Restart") == "always" && (job == "" || job == "0")
}

// Run runs a command of a service manager, with the limit of time that all of them have.
func Run(ctx context.Context, name string, args ...string) (string, error) {
	return runCommand(ctx, name, args...)
}
