package datastore

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/mattn/go-sqlite3"
)

// fault is what can be wrong with the place where state is kept.
type fault int

const (
	faultNone    fault = iota
	faultBusy          // a lock was not free in time; passes by itself
	faultFull          // no space left
	faultIO            // the device or the file system fails
	faultDamaged       // the content makes no sense
)

// classify distinguishes faults of the disk from errors of a request. SQLite reports a
// full disk as SQLITE_FULL for pages, but as an I/O error with ENOSPC inside
// where it grows its shared memory file.
func classify(err error) fault {
	var errno syscall.Errno
	var sqliteErr sqlite3.Error
	switch {
	case err == nil:
		return faultNone
	case errors.As(err, &sqliteErr):
		return classifySQLite(sqliteErr)
	case errors.As(err, &errno):
		return classifyErrno(errno, faultIO)
	}
	return faultNone
}

func classifySQLite(err sqlite3.Error) fault {
	switch err.Code {
	case sqlite3.ErrFull:
		return faultFull
	case sqlite3.ErrIoErr, sqlite3.ErrReadonly, sqlite3.ErrCantOpen:
		return classifyErrno(err.SystemErrno, faultIO)
	case sqlite3.ErrCorrupt, sqlite3.ErrNotADB:
		return faultDamaged
	case sqlite3.ErrBusy, sqlite3.ErrLocked:
		return faultBusy
	}
	return faultNone
}

func classifyErrno(errno syscall.Errno, otherwise fault) fault {
	if errno == syscall.ENOSPC || errno == syscall.EDQUOT {
		return faultFull
	}
	return otherwise
}

// describe is the one line a user gets: what, where, what to do.
func (f fault) describe(path string, err error) string {
	switch f {
	case faultFull:
		return fmt.Sprintf("disk full at %s: writes are refused until space is freed", path)
	case faultDamaged:
		return fmt.Sprintf("%s is damaged (%v): stop brink, then restore a snapshot or start with --datastore-set-aside-damaged", path, err)
	default:
		return fmt.Sprintf("cannot write %s (%v): check the disk and the kernel log", path, err)
	}
}

// describeSnapshot is the same for the volatile store, which goes on without
// its snapshot.
func (f fault) describeSnapshot(path string, err error) string {
	const effect = "leases and events live on in memory but are not saved"
	if f == faultFull {
		return fmt.Sprintf("disk full at %s: %s until space is freed", path, effect)
	}
	return fmt.Sprintf("cannot write %s (%v): %s; check the disk and the kernel log", path, err, effect)
}
