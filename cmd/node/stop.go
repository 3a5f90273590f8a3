package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"brink/internal/initsystem"
	"brink/internal/layout"
)

// stopLimit is how long a brink may take to stop before it is killed. One that is well
// stops within seconds; a component that hangs is left behind after its own deadline.
const stopLimit = 90 * time.Second

// Stopping says how a brink is stopped that may be a service of the machine.
type Stopping struct {
	// Uses reports whether a brink with these arguments and variables would use the data
	// directory: see initsystem.Query.
	Uses func(args, env []string) bool
	// Forever keeps its services from starting at the next boot.
	Forever bool
}

// TakeOver stops a running brink and takes its lock, so that no other starts meanwhile.
// A service manager that would start it again is told first. A data directory that does
// not exist needs no lock.
func TakeOver(ctx context.Context, l layout.Layout, s Stopping) (unlock func(), err error) {
	if _, err := Stop(ctx, l, s); err != nil {
		return nil, err
	}
	if _, err := os.Stat(l.Data()); errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	return lockDataDir(l)
}

// Stop stops the brink on the data directory, by its service where it is one, and reports
// whether there was anything to stop.
func Stop(ctx context.Context, l layout.Layout, s Stopping) (stopped bool, err error) {
	pid, err := runningPID(l)
	if err != nil {
		return false, err
	}
	services, err := initsystem.Find(ctx, initsystem.Query{PID: pid, Uses: s.Uses})
	if err != nil {
		return false, fmt.Errorf("looking for a service that runs brink: %w", err)
	}
	for _, service := range services {
		if err := s.stopService(ctx, service); err != nil {
			return false, err
		}
		stopped = stopped || service.IsDaemon
	}
	if pid, err = runningPID(l); err != nil || pid == 0 {
		return stopped, err
	}
	return true, stopBrink(ctx, pid)
}

// stopService takes a service out, or only stops it. One that cannot be disabled, as on a
// read-only /etc, is no reason to go no further: somebody who removes it finds the line.
func (s Stopping) stopService(ctx context.Context, service initsystem.Service) error {
	if s.Forever {
		fmt.Printf("disabling the service %s of %s\n", service.Name, service.Init)
		if err := service.Disable(ctx); err != nil {
			fmt.Printf("kept the service %s, which starts brink again at the next boot (%v): %s\n", service.Name, err, service.HowToDisable())
		}
	}
	if !service.IsDaemon {
		return nil
	}
	fmt.Printf("stopping the service %s of %s\n", service.Name, service.Init)
	if err := service.Stop(ctx); err != nil {
		return fmt.Errorf("stopping the service by which brink would come back: %w: do it by hand and try again: %s", err, service.HowToDisable())
	}
	return nil
}

// runningPID returns the id of the process that holds the lock, 0 if none does. It believes the
// id in the file only if that process has the file open.
func runningPID(l layout.Layout) (int, error) {
	f, err := os.Open(l.Lock())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err == nil {
		return 0, nil
	}
	pid, err := strconv.Atoi(lockHolder(l))
	if err != nil || pid <= 1 || !hasOpen(pid, f) {
		return 0, fmt.Errorf("%s is in use by a process that cannot be found from here (pid %s): stop brink first", l.Data(), lockHolder(l))
	}
	return pid, nil
}

// hasOpen reports whether a process has the file of f open.
func hasOpen(pid int, f *os.File) bool {
	want, err := f.Stat()
	if err != nil {
		return false
	}
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, path := range files {
		if has, err := os.Stat(path); err == nil && os.SameFile(has, want) {
			return true
		}
	}
	return false
}

// stopBrink asks a process to stop, and kills it if it does not within stopLimit.
func stopBrink(ctx context.Context, pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	fmt.Printf("stopping brink, pid %d\n", pid)
	if endsBy(ctx, p, syscall.SIGTERM, stopLimit) {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	fmt.Printf("brink does not stop within %s, killing it\n", stopLimit)
	if !endsBy(ctx, p, syscall.SIGKILL, stopLimit) {
		return fmt.Errorf("brink, pid %d, does not end: stop it and try again", pid)
	}
	return nil
}

// endsBy sends the signal and reports whether the process ends within limit. One that is
// dead and not reaped by its parent counts as ended: it has released everything.
func endsBy(ctx context.Context, p *os.Process, sig syscall.Signal, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if errors.Is(p.Signal(sig), os.ErrProcessDone) {
		return true
	}
	for ctx.Err() == nil {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.Pid))
		if p.Signal(syscall.Signal(0)) != nil || err != nil || exe == "" {
			return true
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}
