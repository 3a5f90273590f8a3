package datastore

import (
	"context"
	"fmt"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
)

// runSQLite serves the durable store.
func (s *Store) runSQLite(ctx context.Context, ready func()) error {
	err := s.withDatabase(ctx, func(dbCtx context.Context, closed *sync.WaitGroup) (server.Backend, history, error) {
		store, err := openSQLite(dbCtx, closed, s.database(), s.disk)
		if err != nil {
			return nil, nil, fmt.Errorf("opening database %s: %w", s.database(), err)
		}
		if err := s.beginSQLite(dbCtx, store); err != nil {
			return nil, nil, fmt.Errorf("starting database %s: %w", s.database(), err)
		}
		s.settleBefore(store)
		go store.maintain(dbCtx, s.compactEvery)
		return &guarded{Backend: store.Backend}, store, nil
	}, ready)
	if err != nil || s.disk.health() != nil {
		return err // the next start shall check the file
	}
	return s.markClosed()
}

// beginSQLite makes the log ready. The mark comes after the first write: from then on
// there is a WAL, and a start that finds the mark but no WAL knows that one was lost.
func (s *Store) beginSQLite(ctx context.Context, store *sqliteStore) error {
	store.log.ceiling = s.ceiling
	if err := s.beginRevisions(ctx, store.log); err != nil {
		return err
	}
	// The time to live loop and the log's reader are started here.
	if err := store.Start(ctx); err != nil {
		return err
	}
	if err := store.probe(ctx); err != nil {
		return err
	}
	return s.markInUse()
}
