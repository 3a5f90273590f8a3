package datastore

import (
	"context"
	"errors"
	"time"
)

// externalStore is what a compactor needs of a PostgreSQL or MySQL.
type externalStore struct {
	log     *checkedLog
	dialect *externalDialect
}

func (s *externalStore) CurrentRevision(ctx context.Context) (int64, error) {
	return s.log.CurrentRevision(ctx)
}

func (s *externalStore) compacted(ctx context.Context) (int64, error) {
	return s.dialect.GetCompactRevision(ctx)
}

func (s *externalStore) compactTo(ctx context.Context, revision int64) error {
	return s.dialect.one(ctx, func(ctx context.Context) error {
		return compactTo(ctx, s.dialect.BeginTx, revision)
	})
}

// maintain removes old revisions until ctx is done.
func (s sqlEngine) maintain(ctx context.Context, store *externalStore) {
	c := compactor{store: store}
	tick := time.NewTicker(s.compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := c.tick(ctx); err != nil && !errors.Is(err, context.Canceled) {
				s.log.Warn("compaction failed, trying again", "error", oneLine(err), "in", s.compactEvery)
			}
		}
	}
}
