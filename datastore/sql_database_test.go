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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"brink/internal/testdatabase"
	"brink/internal/testneed"
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
		testneed.Missing(t, err)
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
		testneed.Missing(t, err)
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

var (
	sharedMu     sync.Mutex
	sharedServer []*testdatabase.Server
	databases    atomic.Int32
)
