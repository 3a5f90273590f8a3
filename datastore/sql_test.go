package datastore

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testdatabase"
)

// kinds runs a test on each kind of database there is on this machine.
func kinds(t *testing.T, test func(t *testing.T, kind testdatabase.Kind)) {
	for _, kind := range []testdatabase.Kind{testdatabase.Postgres, testdatabase.MariaDB} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			test(t, kind)
		})
	}
}

// newDatabase runs a server of the test's own.
func newDatabase(t *testing.T, kind testdatabase.Kind) *testdatabase.Server {
	t.Helper()
	s, err := makeDatabase(kind)
	if s != nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	if errors.Is(err, testdatabase.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func makeDatabase(kind testdatabase.Kind) (*testdatabase.Server, error) {
	dir, err := os.MkdirTemp("", "db")
	if err != nil {
		return nil, err
	}
	s := &testdatabase.Server{Kind: kind, Dir: dir}
	if err := s.Init(); err != nil {
		return s, err
	}
	return s, s.Start()
}

// shared are servers for tests that leave them alone. TestMain closes them.
var shared = map[testdatabase.Kind]func() (*testdatabase.Server, error){
	testdatabase.Postgres: sync.OnceValues(func() (*testdatabase.Server, error) { return keepShared(testdatabase.Postgres) }),
	testdatabase.MariaDB:  sync.OnceValues(func() (*testdatabase.Server, error) { return keepShared(testdatabase.MariaDB) }),
}

var (
	sharedMu     sync.Mutex
	sharedServer []*testdatabase.Server
	databases    atomic.Int32
)

func keepShared(kind testdatabase.Kind) (*testdatabase.Server, error) {
	s, err := makeDatabase(kind)
	if s != nil {
		sharedMu.Lock()
		defer sharedMu.Unlock()
		sharedServer = append(sharedServer, s)
	}
	return s, err
}

func closeShared() {
	for _, s := range sharedServer {
		_ = s.Close()
	}
}

// sharedEndpoint is that of an empty database, which is not there yet.
func sharedEndpoint(t *testing.T, kind testdatabase.Kind) string {
	t.Helper()
	s, err := shared[kind]()
	if errors.Is(err, testdatabase.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s.Endpoint(fmt.Sprintf("test%d", databases.Add(1)))
}

// openRaw is a database as its administrator sees it.
func openRaw(t *testing.T, endpoint string) *sql.DB {
	t.Helper()
	e, err := Config{Endpoint: endpoint}.parseEndpoint()
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(e.connector)
	t.Cleanup(func() { db.Close() })
	return db
}

// externalConfig has a CA of its own, as that of another cluster.
func externalConfig(t *testing.T, endpoint string) Config {
	t.Helper()
	cfg := testConfig(t)
	cfg.Endpoint, cfg.NodeName, cfg.ServerCA = endpoint, "node-1", makeCA(t)
	return cfg
}

func makeCA(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "server-ca.crt")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExternal(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		r := start(t, externalConfig(t, sharedEndpoint(t, kind)))
		c := r.durable
		rev := mustCreate(t, c, "/registry/pods/a", "1")
		w := c.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(rev+1))
		next := mustUpdate(t, c, "/registry/pods/a", "2", rev)
		if r := <-w; r.Err() != nil || len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "2" {
			t.Errorf("watch: %+v", r)
		}
		if got := values(t, c, "/registry/pods/"); got["/registry/pods/a"] != "2" {
			t.Errorf("got %v", got)
		}
		if _, err := create(testContext(t), c, "/registry/pods/a", "3"); err == nil {
			t.Error("what exists was created again")
		}
		if _, err := update(testContext(t), c, "/registry/pods/a", "3", rev); err != errConflict {
			t.Errorf("update of an old revision: %v", err)
		}
		mustCreate(t, c, "/registry/pods/A", "another")
		if _, err := remove(testContext(t), c, "/registry/pods/a", next); err != nil {
			t.Error(err)
		}
		if got := values(t, c, "/registry/pods/"); len(got) != 1 || got["/registry/pods/A"] != "another" {
			t.Errorf("after deleting a there is %v", got)
		}
		if n := r.log.count("level=WARN") + r.log.count("level=ERROR"); n != 0 {
			t.Errorf("%d complaints", n)
		}
	})
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

// What the database refuses is not said to be away: those lines are dropped from the
// log, and a minute of timeouts with them.
func TestRefusedWriteIsNotAway(t *testing.T) {
	t.Parallel()
	if text := errLost.Error(); strings.Contains(text, AwayText) {
		t.Errorf("%q reads as %q", text, AwayText)
	}
}
