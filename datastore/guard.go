package datastore

import (
	"context"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
)

// compactRevKey is the key under which kine's server keeps the version and
// value of the API server's compact_rev_key.
const compactRevKey = "compact_rev_key_apiserver"

// guarded stands between kine's gRPC server and a store of ours. It turns
// every error into a status that an etcd client understands, also those that
// kine loses on the way, and keeps the API server's compaction mark in memory, with
// what the API server asked to compact: reads of older revisions are refused from then
// on, as by etcd, whether they would still be there or not. Paged lists expire by that,
// at no write.
//
// That mark is how several API servers agree on who compacts. It is written
// every five minutes, and with one server and a compactor of our own nobody
// needs it after a restart: a fresh API server begins at version 0 and finds
// none, as in a new etcd.
type guarded struct {
	server.Backend

	mu   sync.Mutex
	mark *server.KeyValue // nil until first written; ModRevision counts its writes
	upTo int64            // what the API server asked to compact
}

func (g *guarded) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	ctx, trouble := withTrouble(ctx)
	if key == compactRevKey {
		head, err := g.Backend.CurrentRevision(ctx)
		return head, g.readMark(), trouble.result(err)
	}
	if g.isCompacted(revision) {
		return 0, nil, server.ErrCompacted
	}
	rev, kv, err := g.Backend.Get(ctx, key, revision, keysOnly)
	return rev, kv, trouble.result(err)
}

func (g *guarded) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	if key == compactRevKey {
		rev, _, ok, err := g.writeMark(ctx, value, 0)
		if err == nil && !ok {
			err = server.ErrKeyExists
		}
		return rev, err
	}
	ctx, trouble := withTrouble(ctx)
	rev, err := g.Backend.Create(ctx, key, value, lease)
	return rev, trouble.result(err)
}

func (g *guarded) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	if key == compactRevKey {
		return g.writeMark(ctx, value, revision)
	}
	ctx, trouble := withTrouble(ctx)
	rev, kv, ok, err := g.Backend.Update(ctx, key, value, revision, lease)
	return rev, kv, ok, trouble.result(err)
}

func (g *guarded) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	ctx, trouble := withTrouble(ctx)
	rev, kv, ok, err := g.Backend.Delete(ctx, key, revision)
	return rev, kv, ok, trouble.result(err)
}

func (g *guarded) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	if g.isCompacted(revision) {
		return 0, nil, server.ErrCompacted
	}
	ctx, trouble := withTrouble(ctx)
	rev, kvs, err := g.Backend.List(ctx, key, end, limit, revision, keysOnly)
	return rev, kvs, trouble.result(err)
}

func (g *guarded) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	if g.isCompacted(revision) {
		return 0, 0, server.ErrCompacted
	}
	ctx, trouble := withTrouble(ctx)
	rev, count, err := g.Backend.Count(ctx, key, end, revision)
	return rev, count, trouble.result(err)
}

func (g *guarded) CurrentRevision(ctx context.Context) (int64, error) {
	ctx, trouble := withTrouble(ctx)
	rev, err := g.Backend.CurrentRevision(ctx)
	return rev, trouble.result(err)
}

// Compact agrees: old revisions go when it is worth a write, see kine_compact.go.
func (g *guarded) Compact(ctx context.Context, revision int64) (int64, error) {
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

// isCompacted is false for 0, the present.
func (g *guarded) isCompacted(revision int64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return revision > 0 && revision < g.upTo
}

func (g *guarded) readMark() *server.KeyValue {
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
func (g *guarded) writeMark(ctx context.Context, value []byte, revision int64) (int64, *server.KeyValue, bool, error) {
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
