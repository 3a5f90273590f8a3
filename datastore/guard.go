package datastore

import (
	"context"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
)

// compactRevKey is the key under which kine's server keeps the version and
// value of the API server's compact_rev_key.
const compactRevKey = "compact_rev_key_apiserver"

// guard stands between kine's gRPC server and a store of ours. It turns every error into a
// status that an etcd client understands, also those that kine loses on the way, and
// refuses requests while a database elsewhere is away.
//
// It also answers the API server's requests to compact, without a write. It notes the
// revision and refuses reads of older ones from then on, as etcd does, whether they are
// still there or not. So paged lists expire.
//
// The API server's compaction mark is kept in memory. By this mark several API servers
// agree on who compacts, and it is written every five minutes. With one server and a
// compactor of our own nobody needs it after a restart: a fresh API server begins at
// version 0 and finds none, as in a new etcd.
type guard struct {
	server.Backend
	link *link // to a database elsewhere; nil for one that is always there

	mu   sync.Mutex
	mark *server.KeyValue // nil until first written; ModRevision counts its writes
	upTo int64            // what the API server asked to compact
}

// request runs what needs the database, unless that is away.
func (g *guard) request(ctx context.Context, do func(context.Context) error) error {
	if g.link == nil {
		return g.collect(ctx, do)
	}
	if err := g.link.gate(); err != nil {
		return toStatus(err)
	}
	return g.collect(ctx, func(ctx context.Context) error { return g.link.explain(do(ctx)) })
}

// collect runs do and returns what went wrong below kine, or the error of do.
func (g *guard) collect(ctx context.Context, do func(context.Context) error) error {
	ctx, trouble := withTrouble(ctx)
	return trouble.result(do(ctx))
}

func (g *guard) Get(ctx context.Context, key string, revision int64, keysOnly bool) (rev int64, kv *server.KeyValue, err error) {
	if key == compactRevKey {
		rev, err = g.CurrentRevision(ctx)
		return rev, g.readMark(), err
	}
	if g.isCompacted(revision) {
		return 0, nil, server.ErrCompacted
	}
	err = g.request(ctx, func(ctx context.Context) (err error) {
		rev, kv, err = g.Backend.Get(ctx, key, revision, keysOnly)
		return err
	})
	return rev, kv, err
}

func (g *guard) Create(ctx context.Context, key string, value []byte, lease int64) (rev int64, err error) {
	if key == compactRevKey {
		rev, _, ok, err := g.writeMark(ctx, value, 0)
		if err == nil && !ok {
			err = server.ErrKeyExists
		}
		return rev, err
	}
	err = g.request(ctx, func(ctx context.Context) (err error) {
		rev, err = g.Backend.Create(ctx, key, value, lease)
		return err
	})
	return rev, err
}

func (g *guard) Update(ctx context.Context, key string, value []byte, revision, lease int64) (rev int64, kv *server.KeyValue, ok bool, err error) {
	if key == compactRevKey {
		return g.writeMark(ctx, value, revision)
	}
	err = g.request(ctx, func(ctx context.Context) (err error) {
		rev, kv, ok, err = g.Backend.Update(ctx, key, value, revision, lease)
		return err
	})
	return rev, kv, ok, err
}

func (g *guard) Delete(ctx context.Context, key string, revision int64) (rev int64, kv *server.KeyValue, ok bool, err error) {
	err = g.request(ctx, func(ctx context.Context) (err error) {
		rev, kv, ok, err = g.Backend.Delete(ctx, key, revision)
		return err
	})
	return rev, kv, ok, err
}

func (g *guard) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (rev int64, kvs []*server.KeyValue, err error) {
	if g.isCompacted(revision) {
		return 0, nil, server.ErrCompacted
	}
	err = g.request(ctx, func(ctx context.Context) (err error) {
		rev, kvs, err = g.Backend.List(ctx, key, end, limit, revision, keysOnly)
		return err
	})
	return rev, kvs, err
}

func (g *guard) Count(ctx context.Context, key, end string, revision int64) (rev, count int64, err error) {
	if g.isCompacted(revision) {
		return 0, 0, server.ErrCompacted
	}
	err = g.request(ctx, func(ctx context.Context) (err error) {
		rev, count, err = g.Backend.Count(ctx, key, end, revision)
		return err
	})
	return rev, count, err
}

func (g *guard) DbSize(ctx context.Context) (size int64, err error) {
	err = g.request(ctx, func(ctx context.Context) (err error) {
		size, err = g.Backend.DbSize(ctx)
		return err
	})
	return size, err
}

// CurrentRevision is known without the database, so it is answered while that is away.
func (g *guard) CurrentRevision(ctx context.Context) (rev int64, err error) {
	err = g.collect(ctx, func(ctx context.Context) (err error) {
		rev, err = g.Backend.CurrentRevision(ctx)
		return err
	})
	return rev, err
}

// Compact only notes the revision. The compactor removes old revisions when that is worth a
// write, see kine_compact.go.
func (g *guard) Compact(ctx context.Context, revision int64) (int64, error) {
	head, err := g.CurrentRevision(ctx)
	if err != nil {
		return 0, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case revision > head:
		return head, server.ErrFutureRev
	case revision <= g.upTo:
		return head, server.ErrCompacted
	}
	g.upTo = revision
	return head, nil
}

// isCompacted reports whether the API server has asked to compact revision. 0 is the current
// one, which never is.
func (g *guard) isCompacted(revision int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return revision > 0 && revision < g.upTo
}

func (g *guard) readMark() *server.KeyValue {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.mark == nil {
		return nil
	}
	copied := *g.mark
	return &copied
}

// writeMark replaces the mark if it was last written as number revision. It
// makes no revision of its own.
func (g *guard) writeMark(ctx context.Context, value []byte, revision int64) (int64, *server.KeyValue, bool, error) {
	head, err := g.CurrentRevision(ctx)
	if err != nil {
		return 0, nil, false, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	var last int64
	if g.mark != nil {
		last = g.mark.ModRevision
	}
	if revision != last {
		return head, g.mark, false, nil
	}
	g.mark = &server.KeyValue{Key: compactRevKey, Value: value, CreateRevision: 1, ModRevision: last + 1}
	return head, g.mark, true, nil
}
