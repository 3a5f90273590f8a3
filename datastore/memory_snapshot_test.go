package datastore

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"brink/internal/testdisk"
	"brink/internal/testerror"
)

// slowLog is a log whose writer hangs for a minute, and with it who logs.
type slowLog struct{ slog.Handler }

func (slowLog) Enabled(context.Context, slog.Level) bool { return true }
func (l slowLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (slowLog) Handle(context.Context, slog.Record) error {
	time.Sleep(time.Minute)
	return nil
}

// The save at the end is the last one, also when another has not ended.
func TestVolatileFinalSaveIsLast(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Logger = slog.New(slowLog{slog.DiscardHandler})
	s, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	inTheWay := s.path(volatileFile)
	if err := os.MkdirAll(filepath.Join(inTheWay, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		store := newMemoryStore(0, reserveAlways)
		if err := store.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop := s.maintain(t.Context(), store)
		time.Sleep(saveInterval + time.Second) // a save fails and is being logged
		if err := os.RemoveAll(inTheWay); err != nil {
			t.Fatal(err)
		}
		asked := time.Now()
		stop()
		ended := time.Now()
		if ended.Sub(asked) < 50*time.Second {
			t.Errorf("a save is not waited for: stopped after %s", ended.Sub(asked))
		}
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
	s, err := prepared(cfg)
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
		defer s.maintain(t.Context(), store)()
		time.Sleep(saveInterval + time.Second)
		synctest.Wait()
		testerror.OneLine(t, s.Warning(), s.path(volatileFile), "cannot write", "leases and events live on in memory")
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
	testerror.OneLine(t, c.health(), "disk full at /db/volatile.snapshot", "not saved until space is freed")
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
