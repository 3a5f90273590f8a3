package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/mattn/go-sqlite3"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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

// classify tells faults of the disk from errors of a request. SQLite reports a
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

// condition is whether a file can be written. It logs changes, not events.
type condition struct {
	log      *slog.Logger
	path     string
	describe func(f fault, path string, err error) string

	bad atomic.Bool // true when fault is not faultNone; spares the good path the lock

	mu    sync.Mutex
	fault fault
	err   error
}

func newCondition(log *slog.Logger, path string) *condition {
	return &condition{log: log, path: path, describe: fault.describe}
}

// failed notes an error of a read or a write.
func (c *condition) failed(err error) {
	f := classify(err)
	if f == faultNone || f == faultBusy {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == f || c.fault == faultDamaged {
		return
	}
	line := c.describe(f, c.path, err)
	c.fault, c.err = f, fmt.Errorf("%s (since %s)", line, time.Now().UTC().Format(time.RFC3339))
	c.bad.Store(true)
	c.log.Error(line)
}

// succeeded notes that a write got through. A damaged file stays damaged: that
// one page could be written says nothing about the others.
func (c *condition) succeeded() {
	if !c.bad.Load() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == faultNone || c.fault == faultDamaged {
		return
	}
	c.fault, c.err = faultNone, nil
	c.bad.Store(false)
	c.log.Info("writes work again", "path", c.path)
}

func (c *condition) health() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// recoverable is whether trying again may help.
func (c *condition) recoverable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault == faultFull || c.fault == faultIO
}

// trouble collects what went wrong below kine during one request. kine drops
// such errors: rows.Err is never asked, so a list that broke off looks
// complete, and a failed insert in Update or Delete is taken for a conflict.
type trouble struct {
	mu  sync.Mutex
	err error
}

type troubleKey struct{}

// withTrouble returns a context to pass through kine to the driver. It is cut
// off from ctx: a driver call that can be interrupted costs a goroutine for
// every row, and all calls are short.
func withTrouble(ctx context.Context) (context.Context, *trouble) {
	t := new(trouble)
	return context.WithValue(context.WithoutCancel(ctx), troubleKey{}, t), t
}

func noteTrouble(ctx context.Context, err error) {
	t, ok := ctx.Value(troubleKey{}).(*trouble)
	if !ok || isConflict(err) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
}

func isConflict(err error) bool {
	var sqliteErr sqlite3.Error
	return errors.As(err, &sqliteErr) && sqliteErr.ExtendedCode == sqlite3.ErrConstraintUnique
}

// result is the error a request ends with.
func (t *trouble) result(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		err = t.err
	}
	return toStatus(err)
}

// toStatus makes errors into what etcd would answer. kine compares its own
// errors by identity, so they pass as they are.
func toStatus(err error) error {
	switch err {
	case nil, server.ErrKeyExists, server.ErrCompacted, server.ErrFutureRev, server.ErrNotSupported:
		return err
	}
	switch classify(err) {
	case faultFull:
		return quietError{status.Convert(rpctypes.ErrGRPCNoSpace)}
	case faultDamaged:
		return quietError{status.Convert(rpctypes.ErrGRPCCorrupt)}
	case faultBusy:
		return quietError{status.New(codes.Unavailable, "datastore: "+err.Error())}
	}
	if s, ok := status.FromError(err); ok {
		return quietError{s}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return quietError{status.FromContextError(err)}
	}
	return quietError{status.New(codes.Internal, "datastore: "+err.Error())}
}

// quietError travels through kine without being logged there: kine prints the
// whole request with every error but a cancellation, and requests hold
// secrets. gRPC sees the status.
type quietError struct{ status *status.Status }

func (e quietError) Error() string              { return e.status.Message() }
func (e quietError) GRPCStatus() *status.Status { return e.status }
func (e quietError) Is(target error) bool       { return target == context.Canceled }
