package datastore

import (
	"context"
	"database/sql"
	"time"

	"github.com/k3s-io/kine/pkg/server"
)

const (
	// compactInterval is also how old a revision is at least when it goes: a
	// watch or a paged list may resume after that long. The API server's own
	// default.
	compactInterval = 5 * time.Minute
	// compactAfter revisions make a compaction worth its writes. An idle node
	// makes a few dozen an hour and should not write for housekeeping.
	compactAfter = 1000
	// compactBatch bounds the time for which writers wait.
	compactBatch = 1000
)

// compactor removes old revisions. It decides by itself when: the API server's request
// comes every five minutes, needed or not.
type compactor struct {
	store  compactable
	target int64 // head of the log at the tick before
}

// compactable is a log in SQL.
type compactable interface {
	CurrentRevision(ctx context.Context) (int64, error)
	compacted(ctx context.Context) (int64, error)
	// compactTo is one transaction.
	compactTo(ctx context.Context, revision int64) error
}

// tick compacts to where the log was a tick ago.
func (c *compactor) tick(ctx context.Context) error {
	head, err := c.store.CurrentRevision(ctx)
	if err != nil {
		return err
	}
	// The last row stays even if it marks a deletion: it is how the revision is
	// known after a restart.
	target := min(c.target, head-1)
	c.target = head
	compacted, err := c.store.compacted(ctx)
	if err != nil || target-compacted < compactAfter {
		return err
	}
	for compacted < target && ctx.Err() == nil {
		compacted = min(compacted+compactBatch, target)
		if err := c.store.compactTo(ctx, compacted); err != nil {
			return err
		}
	}
	return nil
}

// compactTo removes old revisions in one transaction of kine's. That of kine's own ends
// the process when a commit fails, which is what a full disk does, or a connection
// that is lost.
func compactTo(ctx context.Context, begin func(context.Context, *sql.TxOptions) (server.Transaction, error), revision int64) error {
	tx, err := begin(ctx, &sql.TxOptions{})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.Compact(ctx, revision); err != nil {
		return err
	}
	if err := tx.SetCompactRevision(ctx, revision); err != nil {
		return err
	}
	return tx.Commit()
}
