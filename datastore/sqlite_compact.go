package datastore

import (
	"context"
	"time"
)

const (
	// probeInterval is how often a disk that refused a write is tried again
	// when nobody else writes.
	probeInterval = 10 * time.Second
)

func (s *sqliteStore) compacted(ctx context.Context) (int64, error) {
	return s.dialect.GetCompactRevision(ctx)
}

func (s *sqliteStore) compactTo(ctx context.Context, revision int64) error {
	if s.beforeCompact != nil {
		s.beforeCompact()
	}
	s.dialect.Lock()
	defer s.dialect.Unlock()
	if err := compactTo(ctx, s.dialect.BeginTx, revision); err != nil {
		s.disk.failed(err)
		return err
	}
	s.disk.succeeded()
	return nil
}

// probe writes a row back as it is, to learn whether the disk takes writes.
func (s *sqliteStore) probe(ctx context.Context) error {
	s.dialect.Lock()
	defer s.dialect.Unlock()
	_, err := s.dialect.DB.ExecContext(ctx, `UPDATE kine SET prev_revision = prev_revision WHERE name = 'compact_rev_key'`)
	return err
}

// maintain compacts, and tries a full disk again, until ctx is done. Errors need no other
// handling: the disk's condition has recorded them, and the next tick tries again.
func (s *sqliteStore) maintain(ctx context.Context, interval time.Duration) {
	c := compactor{store: s}
	if head, err := s.CurrentRevision(ctx); err == nil {
		c.target = head
	}
	compact, probe := time.NewTicker(interval), time.NewTicker(probeInterval)
	defer compact.Stop()
	defer probe.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-compact.C:
			if err := c.tick(ctx); err != nil && classify(err) == faultNone && ctx.Err() == nil {
				s.disk.log.Warn("compaction failed, trying again", "error", err, "in", interval)
			}
		case <-probe.C:
			if s.disk.recoverable() {
				_ = s.probe(ctx)
			}
		}
	}
}
