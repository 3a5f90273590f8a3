package datastore

import (
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testdatabase"
	"brink/internal/testwait"
)

// What was updated often does not stay in the database.
func TestExternalIsCompacted(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		log := new(logBuffer)
		cfg.Logger = log.logger()
		store, err := prepared(cfg)
		if err != nil {
			t.Fatal(err)
		}
		store.compactEvery = 100 * time.Millisecond
		r := startStore(t, store, log)
		first := mustCreate(t, r.durable, "/registry/config", "kept")
		updateOften(t, r.durable, "/registry/node", compactAfter+300, 10)
		testwait.Until(t, "the first revision is compacted", func() bool {
			return (<-r.durable.Watch(testContext(t), "/", clientv3.WithPrefix(), clientv3.WithRev(first))).CompactRevision > first
		})
		if got := values(t, r.durable, "/registry/config"); got["/registry/config"] != "kept" {
			t.Errorf("what was never updated is %v", got)
		}
		var rows int
		if err := openRaw(t, cfg.Endpoint).QueryRow("SELECT COUNT(*) FROM kine").Scan(&rows); err != nil || rows > compactAfter {
			t.Errorf("%d rows are left, %v", rows, err)
		}
	})
}
