package datastore

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Updates of a few objects, as of nodes or leases: the file must stop growing.
func TestFileIsBounded(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	filled(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	store, err := openSQLite(ctx, &wg, cfg.Dir+"/"+databaseFile, newCondition(nil, ""))
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := store.dialect.DB.Exec(`PRAGMA synchronous=OFF`); err != nil { // one of four connections: only speed
		t.Fatal(err)
	}
	c := compactor{store: store}
	value := []byte(strings.Repeat("x", 2000))
	revs := map[string]int64{}
	var settled int64
	const rounds = 12
	for round := range rounds {
		for i := range 500 {
			key := fmt.Sprint("/node/", i%5)
			if revs[key] == 0 {
				revs[key], err = store.Create(ctx, key, value, 0)
			} else {
				revs[key], _, _, err = store.Update(ctx, key, value, revs[key], 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := c.tick(ctx); err != nil {
			t.Fatal(err)
		}
		if round == rounds/2 {
			settled = databaseSize(t, store, cfg)
		}
	}
	if end := databaseSize(t, store, cfg); end > settled*5/4 {
		t.Errorf("grew from %d to %d bytes", settled, end)
	}
	if _, _, err := store.since(ctx, "", "", 1); err == nil {
		t.Error("the first revision can still be read: nothing was compacted")
	}
	if _, n, err := store.Count(ctx, "/registry/configmaps/", "/registry/configmaps0", 0); n != 200 || err != nil {
		t.Errorf("%d configmaps left, %v", n, err)
	}
	for key, rev := range revs {
		if _, kv, err := store.Get(ctx, key, 0, false); err != nil || kv == nil || kv.ModRevision != rev {
			t.Errorf("%s: %v, %v; want revision %d", key, kv, err, rev)
		}
	}
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

// databaseSize is without the log, which is as long as it ever had to be: on a
// busy machine that is as long as a reader kept it from being written back.
func databaseSize(t *testing.T, store *sqliteStore, cfg Config) int64 {
	t.Helper()
	log, err := os.Stat(cfg.Dir + "/" + databaseFile + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	// Never written back it would have over 30 MB by now.
	if log.Size() > 20<<20 {
		t.Errorf("the log has %d bytes: it is not written back", log.Size())
	}
	if _, err := store.dialect.DB.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cfg.Dir + "/" + databaseFile)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
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
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	store, err := openSQLite(ctx, &wg, r.database(), r.disk)
	if err != nil {
		t.Fatal(err)
	}
	c := compactor{store: store}
	for range 2 {
		if err := c.tick(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if compacted, err := store.dialect.GetCompactRevision(ctx); err != nil || compacted < last-compactAfter {
		t.Errorf("compacted to %d, %v; head is %d", compacted, err, last)
	}
	cancel()
	wg.Wait()
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
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	store, err := openSQLite(ctx, &wg, r.database(), r.disk)
	if err != nil {
		t.Fatal(err)
	}
	before := fileSize(t, cfg)
	c := compactor{store: store}
	for range 5 {
		if err := c.tick(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if compacted, _ := store.dialect.GetCompactRevision(ctx); compacted != 0 || fileSize(t, cfg) != before {
		t.Errorf("compacted to %d, %d bytes written", compacted, fileSize(t, cfg)-before)
	}
}
