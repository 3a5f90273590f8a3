package datastore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brink/internal/testdatabase"
	"brink/internal/testwait"
)

// A foreign etcd is one cluster's and one server's as well, and is told to be
// away when it is.
func TestEtcd(t *testing.T) {
	t.Parallel()
	etcd := newDatabase(t, testdatabase.Etcd)
	cfg := externalConfig(t, etcd.Endpoint(""))
	first := launch(t, cfg)
	first.awaitReady(t)
	if err := first.Claim(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, launch(t, elsewhere(t, cfg, "node-2")), "in use by the server of node node-1")
	other := elsewhere(t, cfg, "node-2")
	other.ServerCA = makeCA(t)
	wantRefused(t, launch(t, other), "another cluster", "sha256:", "restore")

	if err := etcd.Kill(); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "it is said that etcd is away", func() bool { return first.Health() != nil })
	if err := first.Health().Error(); !strings.Contains(err, "is away (since ") {
		t.Error(err)
	}
	late := launch(t, elsewhere(t, cfg, "node-2"))
	testwait.Until(t, "it waits for etcd", func() bool { return late.Health() != nil })
	late.stop()
	if err := late.ended(t); err != nil {
		t.Error(err)
	}
	if err := etcd.Start(); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "it is said that etcd is back", func() bool { return first.Health() == nil })

	c := dial(t, first.DurableEndpoint())
	ca, err := os.ReadFile(cfg.ServerCA)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, c, rootCAKey, "k8s\x00ca.crt: "+string(ca))
	if _, err := c.Delete(testContext(t), etcdCluster); err != nil { // as one from before
		t.Fatal(err)
	}
	wantRefused(t, launch(t, other), "another cluster", "name another CA")
	other.ServerCA = filepath.Join(t.TempDir(), "none.crt")
	wantRefused(t, launch(t, other), "there is no CA")

	if _, err := c.Put(testContext(t), etcdHolder, "another"); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, first, "taken over by the server of node node-1")
}

// The loss of an etcd and its return are noticed by the connection, long before the
// next renewal: here there is none.
func TestEtcdIsBackSoon(t *testing.T) {
	t.Parallel()
	etcd := newDatabase(t, testdatabase.Etcd)
	r := launchRenewing(t, externalConfig(t, etcd.Endpoint("")), time.Hour)
	r.awaitReady(t)
	for n, leave := range []func() error{etcd.Kill, etcd.Stop} {
		if err := leave(); err != nil {
			t.Fatal(err)
		}
		testwait.Until(t, "it is said that etcd is away", func() bool { return r.Health() != nil })
		if err := etcd.Start(); err != nil {
			t.Fatal(err)
		}
		testwait.Until(t, "it is said that etcd is back", func() bool { return r.log.count("the database is back") == n+1 })
	}
}

func TestEtcdRegistryIsConditional(t *testing.T) {
	t.Parallel()
	etcd := newDatabase(t, testdatabase.Etcd)
	registry := &etcdRegistry{dial: Config{Endpoint: etcd.Endpoint("")}.dialEtcd, suspect: func() {}}
	defer registry.close()
	testRegistry(t, registry)
}
