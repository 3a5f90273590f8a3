package datastore

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// condition knows whether a file can be written, and logs when that changes.
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

// recoverable reports whether trying again may help.
func (c *condition) recoverable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault == faultFull || c.fault == faultIO
}
