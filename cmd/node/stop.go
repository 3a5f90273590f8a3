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

	"brink/internal/layout"
)

// stopLimit is how long a brink may take to stop before it is killed. One that is well
// stops within seconds; a component that hangs is left behind after its own deadline.
const stopLimit = 90 * time.Second

// TakeOver stops a running brink and takes its lock, so that no other starts meanwhile.
// A data directory that does not exist needs no lock.
func TakeOver(ctx context.Context, l layout.Layout) (unlock func(), err error) {
	if _, err := os.Stat(l.Data()); errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	pid, err := runningPID(l)
	if err != nil {
		return nil, err
	}
	if pid != 0 {
		if err := stopBrink(ctx, pid); err != nil {
			return nil, err
		}
	}
	return lockDataDir(l)
}

// runningPID returns the process that holds the lock, 0 if none does. The id in the lock
// is only believed of a process that has the file open.
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
