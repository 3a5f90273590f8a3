package datastore

import (
	"context"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sqlGuard is the guard of PostgreSQL and MySQL, where kine's own watches
// and polling do the work.
type sqlGuard struct {
	guard
	cuts cuts
}

// errLost stands for an error that kine took for a conflict: it says that the
// revision is not the wanted one, and returns the wanted one. The database is not away,
// so the text must not have AwayText in it: lines with that are not logged.
var errLost = status.Error(codes.Unavailable, "datastore: a write was refused by the database; see its log")

func (g *sqlGuard) Watch(ctx context.Context, key, end string, revision int64) server.WatchResult {
	return withoutGap(g.guard.Watch(g.cuts.context(ctx), key, end, revision))
}

func (g *sqlGuard) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	rev, kv, ok, err := g.guard.Update(ctx, key, value, revision, lease)
	if err == nil && !ok && kv != nil && kv.ModRevision == revision && key != compactRevKey {
		err = errLost
	}
	return rev, kv, ok, err
}

func (g *sqlGuard) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	rev, kv, ok, err := g.guard.Delete(ctx, key, revision)
	if err == nil && !ok && kv != nil && kv.ModRevision == revision {
		err = errLost
	}
	return rev, kv, ok, err
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
