package datastore

import (
	"context"
	"fmt"
	"sync"

	"github.com/k3s-io/kine/pkg/server"
)

// sqliteEngine keeps the durable state in a file, and the volatile one in memory.
type sqliteEngine struct{ *Store }

func (s sqliteEngine) prepare() error {
	s.leases = newLeaseCopy(s.socket(leasesFile), s.cfg.SocketDir)
	return s.prepareDatabase()
}

func (s sqliteEngine) durableEndpoint() string     { return "unix://" + s.socket(durableSocket) }
func (s sqliteEngine) volatileEndpoint() string    { return "unix://" + s.socket(volatileSocket) }
func (s sqliteEngine) claim(context.Context) error { return nil } // nobody else's
func (s sqliteEngine) health() error               { return s.disk.health() }

func (s sqliteEngine) runDurable(ctx context.Context, ready func()) error {
	err := s.withDatabase(ctx, func(dbCtx context.Context, closed *sync.WaitGroup) (server.Backend, history, error) {
		store, err := openSQLite(dbCtx, closed, s.database(), s.disk)
		if err != nil {
			return nil, nil, fmt.Errorf("opening database %s: %w", s.database(), err)
		}
		if err := s.begin(dbCtx, store); err != nil {
			return nil, nil, fmt.Errorf("starting database %s: %w", s.database(), err)
		}
		s.settleBefore(store)
		go store.maintain(dbCtx, s.compactEvery)
		return &guard{Backend: store.Backend}, store, nil
	}, ready)
	if err != nil || s.disk.health() != nil {
		return err // the next start checks the file
	}
	return s.markClosed()
}

// begin makes the log ready. The mark comes after the first write: from then on
// there is a WAL, and a start that finds the mark but no WAL knows that one was lost.
func (s sqliteEngine) begin(ctx context.Context, store *sqliteStore) error {
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
