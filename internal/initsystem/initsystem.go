// Package initsystem finds the services of this machine, of systemd or OpenRC, that run
// brink, and stops them or takes them out. A brink that is only ended by a signal comes
// back: after an uninstall that would be a new, empty cluster.
//
// A service counts as brink's when the process in question is its main process, or when
// its program is called brink. Other services are never touched, also where brink runs
// somewhere below them, such as below a CI runner's or a login's.
package initsystem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Init is a service manager.
type Init string

// The service managers that are known.
const (
	Systemd Init = "systemd"
	OpenRC  Init = "openrc"
)

// Service is a service that runs brink, or will at the next boot.
type Service struct {
	Init Init
	Name string // brink.service of systemd, brink of OpenRC
	// IsDaemon is false for one that only has a word at boot or shutdown, as the one
	// that ends pods has. Stopping it would do that now.
	IsDaemon bool
}

// Query says which services are looked for.
type Query struct {
	PID int // of the brink that runs, 0 for none
	// Uses reports whether a brink with these arguments, after the program's name, and
	// these variables, NAME=VALUE, would use the data directory in question.
	Uses func(args, env []string) bool
}

// commandLimit is longer than a unit of brink's may take to stop.
const commandLimit = 3 * time.Minute

// machine is where services are looked for: the real one, or a test's.
type machine struct {
	root string
	run  func(ctx context.Context, name string, args ...string) (string, error)
}

func here() machine { return machine{root: "/", run: runCommand} }

// Find returns the services by which the brink in question runs, or comes back.
func Find(ctx context.Context, q Query) ([]Service, error) { return here().find(ctx, q) }

func (m machine) find(ctx context.Context, q Query) ([]Service, error) {
	if m.has("run/systemd/system") {
		return m.systemdServices(ctx, q)
	}
	if m.has("run/openrc") {
		return m.openrcServices(q), nil
	}
	return nil, nil
}

// Stop stops the service. It starts again at the next boot.
func (s Service) Stop(ctx context.Context) error { return here().stop(ctx, s) }

func (m machine) stop(ctx context.Context, s Service) error {
	name, args := "systemctl", []string{"stop", s.Name}
	if s.Init == OpenRC {
		name, args = "rc-service", []string{s.Name, "stop"}
	}
	_, err := m.run(ctx, name, args...)
	return err
}

// Disable keeps the service from being started at the next boot. It does not stop it.
func (s Service) Disable(ctx context.Context) error { return here().disable(ctx, s) }

func (m machine) disable(ctx context.Context, s Service) error {
	if s.Init == Systemd {
		_, err := m.run(ctx, "systemctl", "disable", "--quiet", s.Name)
		return err
	}
	levels, _ := filepath.Glob(filepath.Join(m.root, "etc/runlevels/*", s.Name))
	var errs []error
	for _, link := range levels {
		_, err := m.run(ctx, "rc-update", "--quiet", "del", s.Name, filepath.Base(filepath.Dir(link)))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// HowToDisable is the line for somebody who has to do it by hand.
func (s Service) HowToDisable() string {
	if s.Init == Systemd {
		return "systemctl disable --now " + s.Name
	}
	return "rc-service " + s.Name + " stop; rc-update -a del " + s.Name
}

func (m machine) has(path string) bool {
	_, err := os.Stat(filepath.Join(m.root, path))
	return err == nil
}

func (m machine) read(path string) string {
	text, _ := os.ReadFile(filepath.Join(m.root, path))
	return string(text)
}

// variables returns the NAME=VALUE lines of a file of settings, as systemd and shells
// read it, without what only a shell could make of them.
func (m machine) variables(path string) []string {
	var out []string
	for line := range strings.Lines(m.read(path)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			out = append(out, name+"="+strings.Trim(value, `"'`))
		}
	}
	return out
}

// isBrink reports whether a path is that of brink's program, by its name: the file itself
// may have been replaced since, or be gone.
func isBrink(program string) bool { return filepath.Base(program) == "brink" }

// isDaemon reports whether brink runs on with these arguments.
func isDaemon(args []string) bool {
	return len(args) > 0 && (args[0] == "server" || args[0] == "agent")
}

// runCommand returns what a command prints. Its error has the command's own words.
func runCommand(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.Join(strings.Fields(stderr.String()), " ")
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, said)
	}
	return stdout.String(), nil
}
