package datastore

import (
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// startPostgres runs a server of its own that listens on a unix socket only,
// and returns its endpoint.
func startPostgres(t *testing.T) string {
	t.Helper()
	initdb, err := exec.LookPath("initdb")
	if err != nil {
		t.Skip("PostgreSQL is not installed")
	}
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	nobody := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 { // it refuses to run as root
		const uid = 65534
		nobody.Credential = &syscall.Credential{Uid: uid, Gid: uid}
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	command := func(name string, args ...string) *exec.Cmd {
		c := exec.Command(name, args...)
		c.SysProcAttr, c.Dir = nobody, dir
		return c
	}
	if out, err := command(initdb, "-D", data, "-U", "kine", "-A", "trust", "-N").CombinedOutput(); err != nil {
		t.Skipf("initdb does not work here: %v\n%s", err, out)
	}
	server := command(filepath.Join(filepath.Dir(initdb), "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(syscall.SIGINT)
		server.Wait()
	})
	// A database that exists: kine tries only once to create one, and the
	// server may still be starting then.
	return "postgres://kine@/postgres?host=" + dir
}

// startExternal runs a Store on cfg.Endpoint and returns a client.
func startExternal(t *testing.T, cfg Config) *clientv3.Client {
	t.Helper()
	store, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return startStore(t, store, new(logBuffer)).volatile // shared with the durable one
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Endpoint = startPostgres(t)
	c := startExternal(t, cfg)
	rev := mustCreate(t, c, "/registry/pods/a", "1")
	w := c.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(rev+1))
	mustUpdate(t, c, "/registry/pods/a", "2", rev)
	if r := <-w; r.Err() != nil || len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "2" {
		t.Errorf("watch: %+v", r)
	}
	if got := values(t, c, "/registry/pods/"); got["/registry/pods/a"] != "2" {
		t.Errorf("got %v", got)
	}
}

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
	cfg := testConfig(t)
	cfg.Endpoint = startPostgres(t)
	c := startExternal(t, cfg)
	first := mustCreate(t, c, "/registry/pods/a", "1")
	for _, name := range []string{"b", "c", "d"} {
		mustCreate(t, c, "/registry/pods/"+name, "1")
	}
	db, err := sql.Open("pgx", cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(breakRow); err != nil {
		t.Fatal(err)
	}
	eventually(t, "there are new connections", func() bool {
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
