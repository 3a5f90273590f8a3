package datastore

import (
	"strings"
	"testing"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testdatabase"
	"brink/internal/testwait"
)

// breakRow makes PostgreSQL fail when it comes to a row in the middle of a
// result, as it does at a damaged page. Without sorting, the rows before it
// have been sent by then; that setting is for new connections.
const breakRow = `
	ALTER TABLE kine RENAME TO sound;
	CREATE FUNCTION broken(value bytea, name text) RETURNS bytea LANGUAGE plpgsql STABLE AS $$
		BEGIN
			IF name = '/registry/pods/c' THEN RAISE EXCEPTION 'invalid page'; END IF;
			RETURN value;
		END $$;
	CREATE VIEW kine AS SELECT id, name, created, deleted, create_revision, prev_revision, lease,
		broken(value, name) AS value, old_value FROM sound;
	ALTER DATABASE postgres SET enable_sort = off;
	ALTER DATABASE postgres SET enable_seqscan = off;
	SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = 'postgres'`

// What the database could not read to its end must not pass for all there is.
func TestPostgresBreaksOff(t *testing.T) {
	t.Parallel()
	cfg := externalConfig(t, newDatabase(t, testdatabase.Postgres).Endpoint("postgres"))
	c := start(t, cfg).durable
	first := mustCreate(t, c, "/registry/pods/a", "1")
	for _, name := range []string{"b", "c", "d"} {
		mustCreate(t, c, "/registry/pods/"+name, "1")
	}
	db := openRaw(t, cfg.Endpoint)
	if _, err := db.Exec(breakRow); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "there are new connections", func() bool {
		_, err := c.Get(testContext(t), "/registry/health")
		return err == nil
	})
	if list, err := c.Get(testContext(t), "/registry/pods/", clientv3.WithPrefix()); err == nil {
		t.Errorf("a list of %d of 4 passes for all", len(list.Kvs))
	}
	w := c.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(first))
	if r, ok := <-w; ok && r.Err() == nil {
		t.Errorf("watch over the broken row: %d events; want its end", len(r.Events))
	}
}

// The way to the dialect leads through private fields of kine.
func TestDialectOf(t *testing.T) {
	t.Parallel()
	want := new(generic.Generic)
	if got, err := dialectOf(logstructured.New(newKineLog(want))); err != nil || got != want {
		t.Errorf("got %p, %v; want %p", got, err, want)
	}
	for name, backend := range map[string]server.Backend{
		"another backend": newMemoryStore(0, reserveAlways),
		"another log":     logstructured.New(newCheckedLog(want, new(drivers.Config))),
		"none":            nil,
	} {
		if got, err := dialectOf(backend); err == nil {
			t.Errorf("%s: got %p, want an error", name, got)
		}
	}
}

func newKineLog(dialect server.Dialect) *sqllog.SQLLog {
	return sqllog.New(dialect, 0, 0, 0, 0, 0, 0)
}

// What the database refuses is not said to be away: those lines are dropped from the
// log, and a minute of timeouts with them.
func TestRefusedWriteIsNotAway(t *testing.T) {
	t.Parallel()
	if text := errLost.Error(); strings.Contains(text, AwayText) {
		t.Errorf("%q reads as %q", text, AwayText)
	}
}
