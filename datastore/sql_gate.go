package datastore

import (
	"context"

	"github.com/k3s-io/kine/pkg/server"
)

// gated refuses requests while the database is away.
type gated struct {
	server.Backend
	link *link
}

func (g *gated) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *server.KeyValue, error) {
	if err := g.link.gate(); err != nil {
		return 0, nil, err
	}
	rev, kv, err := g.Backend.Get(ctx, key, revision, keysOnly)
	return rev, kv, g.link.explain(err)
}

func (g *gated) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	if err := g.link.gate(); err != nil {
		return 0, err
	}
	rev, err := g.Backend.Create(ctx, key, value, lease)
	return rev, g.link.explain(err)
}

func (g *gated) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	if err := g.link.gate(); err != nil {
		return 0, nil, false, err
	}
	rev, kv, ok, err := g.Backend.Update(ctx, key, value, revision, lease)
	return rev, kv, ok, g.link.explain(err)
}

func (g *gated) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	if err := g.link.gate(); err != nil {
		return 0, nil, false, err
	}
	rev, kv, ok, err := g.Backend.Delete(ctx, key, revision)
	return rev, kv, ok, g.link.explain(err)
}

func (g *gated) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*server.KeyValue, error) {
	if err := g.link.gate(); err != nil {
		return 0, nil, err
	}
	rev, kvs, err := g.Backend.List(ctx, key, end, limit, revision, keysOnly)
	return rev, kvs, g.link.explain(err)
}

func (g *gated) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	if err := g.link.gate(); err != nil {
		return 0, 0, err
	}
	rev, count, err := g.Backend.Count(ctx, key, end, revision)
	return rev, count, g.link.explain(err)
}

func (g *gated) DbSize(ctx context.Context) (int64, error) {
	if err := g.link.gate(); err != nil {
		return 0, err
	}
	size, err := g.Backend.DbSize(ctx)
	return size, g.link.explain(err)
}
