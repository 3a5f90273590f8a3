package datastore

import (
	"context"
	"fmt"
	"sync"
)

// runVolatile serves the volatile store.
//
// Revisions: volatile.revision holds a number below which every revision may
// have been handed out. While running that is a ceiling, written before any
// revision up to it is used; a clean stop lowers it to the last one used. So
// each start begins above everything that came before, kill -9 or not, and
// history begins there too: a watch from an older revision is told "compacted"
// and its client lists again.
func (s sqliteEngine) runVolatile(ctx context.Context, ready func()) error {
	snapshot, found := s.loadSnapshot()
	leases, newer := s.loadLeases(snapshot)
	if newer {
		snapshot = snapshot.withoutLeases()
	}
	store := newMemoryStore(s.firstRevision(found, snapshot, leases), s.reserveRevisions)
	snapshot.restore(store)
	if newer {
		leases.restore(store)
	}
	if err := store.Start(ctx); err != nil {
		return fmt.Errorf("starting the volatile store: %w", err)
	}
	s.volatile.Store(store)
	defer s.volatile.Store(nil)
	stop := s.keep(ctx, store)
	defer stop()
	if err := s.serve(ctx, volatileSocket, &guard{Backend: store}, store, ready); err != nil {
		return err
	}
	stop()
	if err := s.saveFinally(store); err != nil {
		s.log.Warn("leases and events were not saved", "error", err)
		return nil
	}
	s.leases.remove()
	return nil
}

// keep expires and saves in the background. stop waits for both: a save that
// is being written would else replace the final one with older content.
func (s *Store) keep(ctx context.Context, store *memoryStore) (stop func()) {
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { store.expire(background) })
	running.Go(func() { s.saveNowAndThen(background, store) })
	running.Go(func() { s.copyLeases(background, store) })
	return func() {
		cancel()
		running.Wait()
	}
}

func (s *Store) noteSave(err error) {
	if err != nil {
		s.snapshot.failed(err)
		return
	}
	s.snapshot.succeeded()
}

// saveFinally lowers the ceiling only when the snapshot is safe; else the next
// start goes on as after a crash.
func (s *Store) saveFinally(store *memoryStore) error {
	_, revision, err := s.save(store)
	if err != nil {
		return err
	}
	return writeRevision(s.path(revisionFile), revision)
}
