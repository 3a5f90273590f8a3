package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"brink/internal/layout"
)

// Lock takes the data directory for who is no node, until the returned function is called.
func Lock(l layout.Layout) (unlock func(), err error) { return lockDataDir(l) }

// LockHolder returns the process id of who holds the data directory's lock, or held it last.
func LockHolder(l layout.Layout) string { return lockHolder(l) }

// lockDataDir takes the data directory for this process until the returned function is
// called. The error of a second brink on the same directory has the process id of the
// first.
func lockDataDir(l layout.Layout) (unlock func(), err error) {
	if err := os.MkdirAll(l.Data(), 0o755); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	f, err := os.OpenFile(l.Lock(), os.O_RDWR|os.O_CREATE|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	if err := lockExclusively(f); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, inUse(l)
		}
		return nil, fmt.Errorf("locking %s: %w", l.Lock(), err)
	}
	// The pid is only for the message above and not worth an error: on a full disk the
	// check of the host has a better one. Written in place, it needs no room if the file
	// existed before.
	pid := strconv.Itoa(os.Getpid()) + "\n"
	if n, err := f.WriteAt([]byte(pid), 0); err == nil {
		_ = f.Truncate(int64(n))
	}
	return func() { unlockFile(f) }, nil
}

// lookLimit is how long a start waits for those that only look whether brink runs. One look
// takes microseconds, unless the machine is busy.
const lookLimit = 5 * time.Second

// lockExclusively takes the lock, or returns EWOULDBLOCK at once if a brink has it. It waits
// for commands that look at the lock, who share it for a moment: see checkLock.
func lockExclusively(f *os.File) error {
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Since(begun) > lookLimit {
			return err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
			return err // a brink's lock, which nobody shares
		}
		_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	}
}

// unlockFile also unlocks explicitly: a child between fork and exec has the file open
// too.
func unlockFile(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	f.Close()
}

func inUse(l layout.Layout) error {
	return fmt.Errorf("%s is in use by brink with pid %s; stop that one first or give another --data-dir", l.Data(), lockHolder(l))
}

// lockDatabase takes the database's directory as well. Two data directories may lead to
// the same one by a link, and two servers on one database destroy it. The directory
// itself is locked, so that no further file is needed.
func lockDatabase(l layout.Layout) (unlock func(), err error) {
	dir := l.DB()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the database's directory: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("locking the database's directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is in use by a brink with another data directory, from which a link leads there: stop that one first, or give this server a database of its own", dir)
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { unlockFile(f) }, nil
}

// checkLock returns an error if another process holds the lock. It makes no file. It shares
// the lock for a moment, for which lockExclusively waits.
func checkLock(l layout.Layout) error {
	f, err := os.OpenFile(l.Lock(), os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a FIFO would block
	if err != nil {
		return nil // other checks find what is wrong with the directory
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return inUse(l)
	}
	return nil
}

// lockHolder returns what the holder wrote into the lock, its process id.
func lockHolder(l layout.Layout) string {
	text, err := os.ReadFile(filepath.Clean(l.Lock()))
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return pid
	}
	return "unknown"
}
