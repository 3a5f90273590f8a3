package datastore

import (
	"context"
	"fmt"
	"sync"
)

// runVolatile serves the store in memory: leases and events.
//
// Each write gets the next revision, a number by which clients compare what they have read.
// So no number may be used twice, not even after a crash. The file volatile.revision has a
// ceiling: a number that is written before any revision up to it is used. A clean stop
// lowers it to the last revision that was used. So each start begins above all revisions of
// the runs before. It knows nothing of what happened in those: a watch from an older
// revision is answered "compacted", upon which its client lists everything again.
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
	stop := s.maintain(ctx, store)
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

// maintain removes what has expired and saves what has changed, in the background. stop ends
// that and waits: a save in progress would otherwise replace the final one with older content.
func (s *Store) maintain(ctx context.Context, store *memoryStore) (stop func()) {
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

// noteSave records whether saving works, for Health and Warning.
func (s *Store) noteSave(err error) {
	if err != nil {
		s.snapshot.failed(err)
		return
	}
	s.snapshot.succeeded()
}

// saveFinally saves a snapshot and then lowers the ceiling. If the snapshot fails, the ceiling
// stays, and the next start begins as after a crash.
func (s *Store) saveFinally(store *memoryStore) error {
	_, revision, err := s.save(store)
	if err != nil {
		return err
	}
	return writeRevision(s.path(revisionFile), revision)
}
