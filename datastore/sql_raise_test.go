package datastore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testdatabase"
)

// TestExternalRevisionsNeverComeTwice: the owner of a database puts back an older
// copy, whose sequence is as old as its rows.
func TestExternalRevisionsNeverComeTwice(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		cfg.CeilingFile = filepath.Join(t.TempDir(), "revision")
		r := start(t, cfg)
		kept := mustCreate(t, r.durable, "/registry/pods/old", "x")
		var highest int64
		for i := range 20 {
			highest = mustCreate(t, r.durable, fmt.Sprintf("/registry/pods/%d", i), "x")
		}
		r.stop()
		if _, err := os.Lstat(filepath.Join(cfg.Dir, remoteInUseFile)); err == nil {
			t.Error("after a clean end the mark of an unclean one is there")
		}
		r = start(t, cfg)
		if next := mustCreate(t, r.durable, "/registry/pods/next", "x"); next > highest+2 { // a row of this start's own is between
			t.Errorf("revision %d after a clean restart, %d before", next, highest)
		}
		highest = mustCreate(t, r.durable, "/registry/pods/last", "x")
		r.stop()

		putBack(t, kind, cfg.Endpoint, kept)
		mustBeAbove(t, start(t, cfg).durable, highest)
	})
}

// putBack makes a database what it was at a revision.
func putBack(t *testing.T, kind testdatabase.Kind, endpoint string, revision int64) {
	t.Helper()
	statements := []string{fmt.Sprintf(`DELETE FROM kine WHERE id > %d`, revision)}
	if kind == testdatabase.Postgres {
		statements = append(statements, fmt.Sprintf(`SELECT setval(pg_get_serial_sequence('kine', 'id'), %d)`, revision))
	} else {
		statements = append(statements, fmt.Sprintf(`ALTER TABLE kine AUTO_INCREMENT = %d`, revision+1))
	}
	db := openRaw(t, endpoint)
	for _, s := range statements {
		if _, err := db.ExecContext(testContext(t), s); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExternalWitness: a node has seen more than the database knows. Watches that are
// open then end, and to go on where they were is refused, so that the API server reads
// all again.
func TestExternalWitness(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		r := start(t, cfg)
		last := mustCreate(t, r.durable, "/registry/pods/a", "x")
		w := r.durable.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(last+1))
		other := r.durable.Watch(testContext(t), "/registry/secrets/", clientv3.WithPrefix())
		mustCreate(t, r.durable, "/registry/pods/b", "x")
		if got := <-w; got.Err() != nil || len(got.Events) != 1 {
			t.Fatalf("the watch says %+v", got)
		}
		seen := last + 1000
		r.Witness("n2", seen)
		for name, w := range map[string]clientv3.WatchChan{"of pods": w, "of secrets": other} {
			select {
			case got, ok := <-w:
				if ok && !errors.Is(got.Err(), rpctypes.ErrCompacted) {
					t.Errorf("the watch %s says %+v, want its end", name, got)
				}
			case <-time.After(patience):
				t.Errorf("the watch %s stays silent", name)
			}
		}
		mustBeAbove(t, r.durable, seen)
	})
}
