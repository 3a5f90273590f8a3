package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testdisk"
)

func prefixRange(prefix string) clientv3.OpOption {
	return clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix))
}

func TestVolatileSurvivesCleanRestart(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	var last int64
	for round := range 3 {
		r := start(t, cfg)
		if got := values(t, r.volatile, "/lease/"); len(got) != round {
			t.Fatalf("round %d: %v", round, got)
		}
		if last > 0 {
			// A watch that saw everything goes on as if nothing had happened.
			w := r.volatile.Watch(testContext(t), "/lease/", clientv3.WithPrefix(), clientv3.WithRev(last+1))
			rev := mustCreate(t, r.volatile, fmt.Sprintf("/lease/%d", round), "holder")
			expectEvents(t, "resumed", w, []string{fmt.Sprintf("PUT /lease/%d=holder@%d was ", round, rev)})
			if rev <= last || rev > last+10 {
				t.Errorf("round %d: revision %d after %d", round, rev, last)
			}
			last = rev
			old := r.volatile.Watch(testContext(t), "/lease/", clientv3.WithPrefix(), clientv3.WithRev(1))
			if resp := <-old; resp.CompactRevision == 0 {
				t.Errorf("watch from 1: %+v, want compacted", resp)
			}
		} else {
			last = mustCreate(t, r.volatile, "/lease/0", "holder")
		}
		r.stop()
	}
}

func TestVolatileKeepsWhatClientsCompare(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	rev := mustCreate(t, r.volatile, "/lease/a", "1")
	r.stop()
	r = start(t, cfg)
	resp, err := r.volatile.Get(testContext(t), "/lease/a")
	if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != rev || resp.Kvs[0].CreateRevision != rev {
		t.Fatalf("got %v, %v; want revision %d", resp, err, rev)
	}
	mustUpdate(t, r.volatile, "/lease/a", "2", rev)
}

func TestVolatileFilesDamaged(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(t *testing.T, dir string){
		"snapshot overwritten": func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, volatileFile), 40, "xxxx") },
		"snapshot cut":         func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, volatileFile), 60) },
		"snapshot empty":       func(t *testing.T, dir string) { truncate(t, filepath.Join(dir, volatileFile), 0) },
		"revision unreadable":  func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, revisionFile), 0, "x") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			r := start(t, cfg)
			rev := mustCreate(t, r.volatile, "/lease/a", strings.Repeat("holder", 100))
			r.stop()
			damage(t, cfg.Dir)
			r = start(t, cfg)
			if n := r.log.count("level=WARN"); n != 1 {
				t.Errorf("%d warnings, want 1", n)
			}
			if next := mustCreate(t, r.volatile, "/lease/b", ""); next <= rev {
				t.Errorf("revision %d after %d", next, rev)
			}
		})
	}
}

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
	s, err := New(cfg)
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

// The save at the end is the last one, also when another is being written.
func TestVolatileFinalSaveIsLast(t *testing.T) {
	t.Parallel()
	s, err := New(testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		store := newMemoryStore(0, reserveAlways)
		store.now = func() time.Time {
			now := time.Now()
			if slow.CompareAndSwap(true, false) {
				time.Sleep(time.Minute) // a card that hangs
			}
			return now
		}
		if err := store.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop := s.keep(t.Context(), store)
		synctest.Wait()
		slow.Store(true)
		time.Sleep(saveInterval + time.Second)
		if slow.Load() {
			t.Fatal("no save is being written")
		}
		stop()
		ended := time.Now()
		if err := s.saveFinally(store); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if saved, _ := s.loadSnapshot(); saved.Saved.Before(ended) {
			t.Errorf("the snapshot is of %s before the end", ended.Sub(saved.Saved))
		}
	})
}

// Leases and events are accepted without a snapshot: that it cannot be written
// is a warning, and is over soon after it can be.
func TestSnapshotThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Logger = new(logBuffer).logger()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	inTheWay := filepath.Join(s.path(volatileFile), "directory")
	if err := os.MkdirAll(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		store := newMemoryStore(0, reserveAlways)
		if err := store.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer s.keep(t.Context(), store)()
		time.Sleep(saveInterval + time.Second)
		synctest.Wait()
		expectOneLine(t, s.Warning(), s.path(volatileFile), "cannot write", "leases and events live on in memory")
		if err := s.Health(); err != nil {
			t.Errorf("health is %v, but all writes are accepted", err)
		}
		if err := os.RemoveAll(s.path(volatileFile)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(probeInterval + time.Second)
		synctest.Wait()
		if err := s.Warning(); err != nil {
			t.Errorf("%s later: %v", probeInterval, err)
		}
		if _, found := s.loadSnapshot(); !found {
			t.Error("there is no snapshot")
		}
	})
}

func TestSnapshotOnFullDisk(t *testing.T) {
	t.Parallel()
	c := newCondition(slog.New(slog.DiscardHandler), "/db/volatile.snapshot")
	c.describe = fault.describeSnapshot
	c.failed(fmt.Errorf("writing: %w", syscall.ENOSPC))
	expectOneLine(t, c.health(), "disk full at /db/volatile.snapshot", "not saved until space is freed")
}

func TestVolatileTTL(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t))
	ctx := testContext(t)
	lease, err := r.volatile.Grant(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	w := r.volatile.Watch(ctx, "/events/", clientv3.WithPrefix())
	mustCreate(t, r.volatile, "/events/stays", "x")
	mustCreate(t, r.volatile, "/events/goes", "x", clientv3.WithLease(lease.ID))
	for resp := range w {
		for _, e := range resp.Events {
			if e.Type == clientv3.EventTypeDelete {
				if got := values(t, r.volatile, "/events/"); string(e.Kv.Key) != "/events/goes" || got["/events/stays"] == "" || len(got) != 1 {
					t.Errorf("%s was deleted, left: %v", e.Kv.Key, got)
				}
				return
			}
		}
	}
	t.Error("no delete seen")
}

// reserveAlways is a revision file that cannot fail.
func reserveAlways(next int64) (int64, error) { return next + revisionStep, nil }

func TestTTLCountsAcrossRestarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		first := newMemoryStore(0, reserveAlways)
		for key, ttl := range map[string]int64{"/short": 60, "/long": 3600, "/ever": 0} {
			if _, err := first.Create(ctx, key, nil, ttl); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Second)
		saved := first.state("", "")
		time.Sleep(20 * time.Minute) // off

		second := newMemoryStore(saved.Revision, reserveAlways)
		saved.restore(second)
		if _, n, _ := second.Count(ctx, "", "", 0); n != 2 {
			t.Errorf("%d keys after 20 minutes off, want 2", n)
		}
		running, stop := context.WithCancel(ctx)
		go second.expire(running)
		time.Sleep(39 * time.Minute)
		if _, n, _ := second.Count(ctx, "", "", 0); n != 2 {
			t.Errorf("%d keys a minute before the end, want 2", n)
		}
		time.Sleep(2 * time.Minute)
		if _, n, _ := second.Count(ctx, "", "", 0); n != 1 {
			t.Errorf("%d keys after the end, want 1", n)
		}
		stop()
		synctest.Wait()
	})
}

func TestTTLWithClockSetBack(t *testing.T) {
	t.Parallel()
	saved := savedState{
		Saved: time.Now().Add(24 * time.Hour), // from before the clock was set back
		Items: []savedItem{{Key: []byte("/a"), Left: time.Minute}},
	}
	store := newMemoryStore(0, reserveAlways)
	saved.restore(store)
	if left := time.Until(store.items["/a"].expires); left > time.Minute {
		t.Errorf("%s left, had a minute", left)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		store := newMemoryStore(0, reserveAlways)
		running, stop := context.WithCancel(ctx)
		go store.expire(running)
		value := make([]byte, 500)
		lease, _ := store.Create(ctx, "/lease", value, 0)
		var most int64
		for i := range 100_000 {
			var err error
			if lease, _, _, err = store.Update(ctx, "/lease", value, lease, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Create(ctx, fmt.Sprint("/event/", i), value, 60); err != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			size, _ := store.DbSize(ctx)
			most = max(most, size)
		}
		stop()
		synctest.Wait()
		// 1,200 events live at a time.
		if limit := int64(historyBytes + 1300*2*entryOverhead + 1300*1000); most > limit {
			t.Errorf("%d bytes at most, want below %d", most, limit)
		}
		if n := len(store.log); n > historyEntries {
			t.Errorf("%d entries in the log", n)
		}
		if first := store.log[0].event.KV.ModRevision; first != store.compacted+1 {
			t.Errorf("log begins at %d but is compacted to %d", first, store.compacted)
		}
		// kine's memory driver repeats events after compactions.
		events, _, err := store.since(ctx, "", "", store.revision-2)
		if err != nil || len(events) != 3 {
			t.Errorf("last three revisions: %d events, %v", len(events), err)
		}
		if _, _, err := store.since(ctx, "", "", store.compacted); !errors.Is(err, server.ErrCompacted) {
			t.Errorf("before the log: %v", err)
		}
		if _, _, err := store.List(ctx, "/", "0", 0, store.compacted-1, false); !errors.Is(err, server.ErrCompacted) {
			t.Errorf("list before the log: %v", err)
		}
	})
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

func TestSaveEvery(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		size int
		want time.Duration
	}{
		{0, saveInterval},
		{10 << 10, saveInterval},
		{512 << 10, 2 * time.Hour},
	} {
		if got := saveEvery(c.size); got != c.want {
			t.Errorf("%d bytes: every %s, want %s", c.size, got, c.want)
		}
	}
}

func TestFullDiskOnlyWarnsVolatile(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	testdisk.MountAt(t, cfg.Dir, "tmpfs", 0, "size=12m")
	r := start(t, cfg)
	mustCreate(t, r.volatile, "/lease/a", "1")
	fillDisk(t, filepath.Join(cfg.Dir, "ballast"))
	mustCreate(t, r.volatile, "/lease/b", "1")
	r.stop()
	if n := r.log.count("were not saved"); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	if err := os.Remove(filepath.Join(cfg.Dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	start(t, cfg)
}
