package datastore

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testdisk"
	"brink/internal/testwait"
)

// Updates of a few objects, as of nodes: what nobody can ask for any more goes
// by itself, and the file does not grow with what was written.
func TestFileIsBounded(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	testdisk.MountAt(t, cfg.Dir, "tmpfs", 0, "size=128m") // for speed: the bytes count
	log := new(logBuffer)
	cfg.Logger = log.logger()
	store, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	store.compactEvery = 20 * time.Millisecond
	r := startStore(t, store, log)
	first := mustCreate(t, r.durable, "/config", "kept")
	const objects, updates, size = 5, 1600, 2000
	var last [objects]int64
	var wg sync.WaitGroup
	for i := range objects {
		wg.Go(func() { last[i] = updateOften(t, r.durable, fmt.Sprint("/node/", i), updates, size) })
	}
	wg.Wait()
	// Each row has its value and the one before.
	if written := int64(objects * updates * size * 2); fileSize(t, cfg) > written/2 {
		t.Errorf("%d bytes on disk after writing %d", fileSize(t, cfg), written)
	}
	testwait.Until(t, "the first revision is compacted", func() bool {
		return (<-r.durable.Watch(testContext(t), "/", clientv3.WithPrefix(), clientv3.WithRev(first))).CompactRevision > first
	})
	if got := values(t, r.durable, "/config"); got["/config"] != "kept" {
		t.Errorf("what was never updated is %v", got)
	}
	for i, rev := range last {
		resp, err := r.durable.Get(testContext(t), fmt.Sprint("/node/", i))
		if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != rev {
			t.Errorf("object %d: %v, %v; want revision %d", i, resp, err, rev)
		}
	}
	if n := log.count("level=WARN") + log.count("level=ERROR"); n != 0 {
		t.Errorf("%d complaints", n)
	}
}

// updateOften returns the last revision of key.
func updateOften(t *testing.T, c *clientv3.Client, key string, times, size int) int64 {
	ctx, value := testContext(t), strings.Repeat("x", size)
	rev, err := create(ctx, c, key, value)
	for range times {
		if err != nil {
			t.Error(err)
			return rev
		}
		rev, err = update(ctx, c, key, value, rev)
	}
	return rev
}

func fileSize(t *testing.T, cfg Config) int64 {
	t.Helper()
	var sum int64
	for _, suffix := range sidecars {
		if info, err := os.Stat(cfg.Dir + "/" + databaseFile + suffix); err == nil {
			sum += info.Size()
		}
	}
	return sum
}

// The last row may mark a deletion. If it went, revisions would run backwards
// after a restart.
func TestRevisionSurvivesCompactionOfDeletes(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	var last int64
	for i := range compactAfter/2 + 10 {
		key := fmt.Sprint("/gone/", i)
		rev := mustCreate(t, r.durable, key, "")
		var err error
		if last, err = remove(testContext(t), r.durable, key, rev); err != nil {
			t.Fatal(err)
		}
	}
	r.stop()
	store, shut := r.reopen(t)
	c := compactor{store: store}
	for range 2 {
		if err := c.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if compacted, err := store.dialect.GetCompactRevision(t.Context()); err != nil || compacted < last-compactAfter {
		t.Errorf("compacted to %d, %v; head is %d", compacted, err, last)
	}
	shut()
	r = start(t, cfg)
	resp, err := r.durable.Get(testContext(t), "/gone/", clientv3.WithPrefix())
	if err != nil || resp.Header.Revision < last {
		t.Errorf("revision %v after a restart, %v; was %d", resp.Header, err, last)
	}
	w := r.durable.Watch(testContext(t), "/gone/", clientv3.WithPrefix(), clientv3.WithRev(2))
	if resp := <-w; resp.CompactRevision == 0 {
		t.Errorf("watch from 2: %+v, want compacted", resp)
	}
}

func TestIdleStoreIsNotCompacted(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	rev := mustCreate(t, r.durable, "/a", "")
	for range 20 {
		rev = mustUpdate(t, r.durable, "/a", "x", rev)
	}
	r.stop()
	store, _ := r.reopen(t)
	before := fileSize(t, cfg)
	c := compactor{store: store}
	for range 5 {
		if err := c.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if compacted, _ := store.dialect.GetCompactRevision(t.Context()); compacted != 0 || fileSize(t, cfg) != before {
		t.Errorf("compacted to %d, %d bytes written", compacted, fileSize(t, cfg)-before)
	}
}

// What the API server asked to compact is gone for readers, also where nothing was
// worth a write: paged lists expire by it.
func TestCompactedIsRefused(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		ctx := testContext(t)
		first := mustCreate(t, c, "/registry/pods/a", "1")
		second := mustUpdate(t, c, "/registry/pods/a", "2", first)
		third := mustUpdate(t, c, "/registry/pods/a", "3", second)
		if got := values(t, c, "/registry/pods/", clientv3.WithRev(first)); got["/registry/pods/a"] != "1" {
			t.Errorf("before: %v", got)
		}
		if _, err := c.Compact(ctx, second); err != nil {
			t.Fatal(err)
		}
		for name, opts := range map[string][]clientv3.OpOption{
			"get":   {clientv3.WithRev(first)},
			"list":  {clientv3.WithRev(first), clientv3.WithPrefix()},
			"count": {clientv3.WithRev(first), clientv3.WithPrefix(), clientv3.WithCountOnly()},
		} {
			if _, err := c.Get(ctx, "/registry/pods/a", opts...); !errors.Is(err, rpctypes.ErrCompacted) {
				t.Errorf("%s at a compacted revision: %v", name, err)
			}
		}
		for revision, want := range map[int64]string{second: "2", third: "3", 0: "3"} {
			if got := values(t, c, "/registry/pods/", clientv3.WithRev(revision)); got["/registry/pods/a"] != want {
				t.Errorf("at %d: %v, want %s", revision, got, want)
			}
		}
	})
}
