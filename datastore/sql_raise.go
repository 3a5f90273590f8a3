package datastore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"brink/internal/atomicfile"
)

// remoteInUseFile is inUseFile for a database elsewhere. It has a name of its own: who
// goes from SQLite to another database may come back to the file.
const remoteInUseFile = "remote.in-use"

func (s *Store) remoteInUse() bool {
	_, err := os.Lstat(s.path(remoteInUseFile))
	return err == nil
}

// beginRemote is beginRevisions for a database elsewhere, whose owner may put back an
// older copy of it as well.
func (s *Store) beginRemote(ctx context.Context, log *checkedLog) error {
	log.ceiling = s.ceiling
	if err := s.beginRevisions(ctx, log); err != nil {
		return err
	}
	if err := atomicfile.Write(s.path(remoteInUseFile), nil, 0o600); err != nil {
		return unusable(s.cfg.Dir, err)
	}
	return nil
}

func (s *Store) markRemoteClosed() error {
	if err := os.Remove(s.path(remoteInUseFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("closing the datastore: %w", err)
	}
	return atomicfile.SyncDir(s.cfg.Dir)
}

// cuts are the watches of kine's own watch server, each with what ends it. A client
// whose watch ends begins one from the last revision that it saw, and is told that it
// is compacted.
type cuts struct {
	mu   sync.Mutex
	last int
	all  map[int]context.CancelFunc
}

// context returns one for a watch, which ends with ctx or by cutAll.
func (c *cuts) context(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[int]context.CancelFunc{}
	}
	c.last++
	id := c.last
	c.all[id] = cancel
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.all, id)
	})
	return ctx
}

func (c *cuts) cutAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.all {
		cancel()
	}
}
