package datastore

import (
	"context"
	"sync"

	"brink/internal/once"
	"brink/internal/sleep"
)

// plausible is how many revisions ahead a node may claim to be and is believed: what a
// hundred a second make in a year. A node that lies can use up that many of the 2^63
// revisions, once in each run of the server.
const plausible = 1 << 32

// witnesses are the nodes that have seen more than this server. What they claim is
// looked at by one goroutine, see hearWitnesses: a database that hangs must not keep
// agents waiting that come back.
type witnesses struct {
	mu     sync.Mutex
	heard  map[string]bool  // nodes whose claim was settled
	claims map[string]int64 // the revision that a node has seen; gone once settled
	wake   chan struct{}
}

func newWitnesses() *witnesses {
	return &witnesses{heard: map[string]bool{}, claims: map[string]int64{}, wake: make(chan struct{}, 1)}
}

// claim records what a node says. Each node is believed once, as the revision of a
// running server does not go back.
func (w *witnesses) claim(node string, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.heard[node] {
		w.claims[node] = max(w.claims[node], revision)
		signal(w.wake)
	}
}

// next returns a claim that was not settled; ok is false when all are.
func (w *witnesses) next() (node string, revision int64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for node, revision := range w.claims {
		return node, revision, true
	}
	return "", 0, false
}

// settle ends a claim. A node that had seen nothing new may still come with more.
func (w *witnesses) settle(node string, heard bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.claims, node)
	if heard {
		w.heard[node] = true
	}
}

// Witness records which revision a node has seen, and returns at once. A server that is
// behind it, such as one whose disk was restored from an image, then continues above
// it and makes all clients list again.
func (s *Store) Witness(node string, revision int64) {
	if log := s.revisions.Load(); log != nil && revision > log.head.Load() {
		s.witnesses.claim(node, revision)
	}
}

// hearWitnesses settles claims until ctx is done. A raise that fails, as the database
// may be away or its disk be full, is tried again: the node is connected by then and
// does not come a second time.
func (s *Store) hearWitnesses(ctx context.Context, log *checkedLog) {
	var told once.Reporter
	for ctx.Err() == nil {
		node, revision, ok := s.witnesses.next()
		if !ok {
			select {
			case <-ctx.Done():
			case <-s.witnesses.wake:
			}
			continue
		}
		err := s.settleClaim(ctx, log, node, revision)
		if err == nil || s.revisions.Load() != log {
			told.Cleared("raise")
			continue
		}
		if told.Changed("raise", "") {
			s.log.Error("a node has seen a later revision, and going on above it failed: trying again", "node", node, "saw", revision, "error", oneLine(err))
		}
		sleep.For(ctx, retryEvery)
	}
}

// settleClaim goes on above what a node has seen, if that is new and plausible.
func (s *Store) settleClaim(ctx context.Context, log *checkedLog, node string, revision int64) error {
	limited, cancel := context.WithTimeout(ctx, statementTime)
	defer cancel()
	head, err := log.CurrentRevision(limited)
	switch {
	case err != nil:
		return err
	case revision <= head:
		s.witnesses.settle(node, false)
		return nil
	case revision-head > plausible:
		s.witnesses.settle(node, true)
		s.log.Warn("a node claims a revision that cannot be true: nothing is done about it", "node", node, "claims", revision, "last", head)
		return nil
	}
	target := revision + ceilingStep // others may have seen a little more than this one
	if err := s.ceiling.allow(target); err != nil {
		return err
	}
	if err := raiseTo(limited, log.db, target); err != nil {
		return err
	}
	log.raise(target + 1)
	s.log.Warn("a node has seen a later revision than this server has, as after restoring an image of its disk: revisions go on above it, clients read anew",
		"node", node, "saw", revision, "last", head, "after", target)
	s.endOldViews(ctx, target+1)
	s.witnesses.settle(node, true)
	return nil
}

// endOldViews ends the watches that began before a revision. It also raises the revision of
// leases and events, which are from the same image as the rest: how high theirs was no node
// has seen. It tries that until it succeeds, for example when the disk is not full any more.
func (s *Store) endOldViews(ctx context.Context, revision int64) {
	if cut := s.cutWatches.Load(); cut != nil {
		(*cut)(revision)
	}
	var warned once.Reporter
	for ctx.Err() == nil {
		store := s.volatile.Load()
		if store == nil {
			return
		}
		err := store.skip(ctx, revisionLost)
		if err == nil {
			return
		}
		if warned.Changed("skip", "") {
			s.log.Warn("leases and events do not go on above what was handed out: trying again", "error", err)
		}
		sleep.For(ctx, retryEvery)
	}
}
