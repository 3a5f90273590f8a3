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

// Run runs a command of a service manager, with the limit of time that all of them have.
func Run(ctx context.Context, name string, args ...string) (string, error) {
	return runCommand(ctx, name, args...)
}
