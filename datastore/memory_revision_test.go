package datastore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The files of the volatile store may be lost again and again.
func TestVolatileRevisionLost(t *testing.T) {
	t.Parallel()
	unreadable := func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, revisionFile), 0, "x") }
	lose := func(names ...string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, damage := range map[string]func(t *testing.T, dir string){
		"unreadable": unreadable,
		"missing":    lose(revisionFile),
		"unreadable without snapshot": func(t *testing.T, dir string) {
			unreadable(t, dir)
			lose(volatileFile)(t, dir)
		},
		"missing with the snapshot": lose(revisionFile, volatileFile),
		"missing beside an unreadable snapshot": func(t *testing.T, dir string) {
			lose(revisionFile)(t, dir)
			truncate(t, filepath.Join(dir, volatileFile), 60)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			var last int64
			for round := range 3 {
				r := start(t, cfg)
				rev := mustCreate(t, r.volatile, fmt.Sprintf("/lease/%d", round), "holder")
				if rev <= last {
					t.Errorf("round %d: revision %d after %d", round, rev, last)
				}
				if n := r.log.count("revision file is lost"); n != min(round, 1) {
					t.Errorf("round %d: told %d times", round, n)
				}
				// The newest revision is that of a delete: no item has it.
				if last, _ = remove(testContext(t), r.volatile, fmt.Sprintf("/lease/%d", round), rev); last <= rev {
					t.Fatalf("round %d: delete has revision %d after %d", round, last, rev)
				}
				r.stop()
				damage(t, cfg.Dir)
			}
		})
	}
}

// With the clock set back only the snapshot knows what was handed out.
func TestVolatileRevisionLostWithClockSetBack(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	s, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	store := newMemoryStore(0, s.reserveRevisions)
	if err := store.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	// Items came and went since: what is left of them is old.
	store.revision = time.Now().Add(30 * 24 * time.Hour).UnixMicro()
	store.ceiling = store.revision + revisionStep
	if _, _, err := s.save(store); err != nil {
		t.Fatal(err)
	}
	store.revision = store.ceiling // handed out after the snapshot
	overwrite(t, s.path(revisionFile), 0, "x")
	saved, found := s.loadSnapshot()
	if got := s.firstRevision(found, saved); got <= store.revision {
		t.Errorf("begins at %d, but %d was handed out", got, store.revision)
	}
}

func TestRevisionsAreReservedAhead(t *testing.T) {
	t.Parallel()
	var asked []int64
	full := false
	store := newMemoryStore(1000, func(next int64) (int64, error) {
		asked = append(asked, next)
		if full {
			return 0, syscall.ENOSPC
		}
		return next + revisionStep, nil
	})
	ctx := context.Background()
	rev, err := store.Create(ctx, "/a", nil, 0)
	if err != nil || rev != 1001 || len(asked) != 1 {
		t.Fatalf("first: %d, %v, asked %v", rev, err, asked)
	}
	full = true
	store.revision = store.ceiling - revisionStep/2 // as if many had passed
	for range 2000 {
		if rev, _, _, err = store.Update(ctx, "/a", nil, rev, 0); err != nil {
			t.Fatalf("refused with half a reservation left: %v", err)
		}
	}
	if len(asked) < 2 {
		t.Error("did not ask for more in time")
	}
	store.revision = store.ceiling
	if _, _, _, err := store.Update(ctx, "/a", nil, rev, 0); err == nil {
		t.Error("handed out a revision that was not reserved")
	}
}

// A revision that could not be reserved is not shown either: after a crash the store would
// begin below it.
func TestSkipStaysBelowTheCeiling(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	isFull := false
	store := newMemoryStore(0, func(next int64) (int64, error) {
		if isFull {
			return 0, full
		}
		return next + revisionStep, nil
	})
	if err := store.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	isFull = true
	if err := store.skip(t.Context(), revisionLost); !errors.Is(err, full) {
		t.Errorf("got %v, want %v", err, full)
	}
	if now, _ := store.CurrentRevision(t.Context()); now > store.ceiling {
		t.Errorf("revision %d is above the ceiling of %d", now, store.ceiling)
	}
	isFull = false
	if err := store.skip(t.Context(), revisionLost); err != nil {
		t.Fatal(err)
	}
	if now, _ := store.CurrentRevision(t.Context()); now <= revisionLost || now > store.ceiling {
		t.Errorf("revision %d, ceiling %d", now, store.ceiling)
	}
}
