package snapshot

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"brink/datastore"
	"brink/internal/layout"
	"brink/server/pki"
	"brink/server/token"
)

var own = State{Version: "v1.36.3+brink.1", Kubernetes: "v1.36.3", Format: StateFormat}

// run starts the datastore of a data directory and returns a client of it, and what stops both.
func run(t *testing.T, l layout.Layout) (client *clientv3.Client, stop func()) {
	t.Helper()
	sockets, err := os.MkdirTemp("", "snap")
	if err != nil {
		t.Fatal(err)
	}
	cluster := func() string { hash, _ := token.CAHash(l.Cert(layout.ServerCA)); return hash }
	store, err := datastore.New(datastore.Config{Dir: l.DB(), SocketDir: sockets, Cluster: cluster, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Prepare(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- store.Durable().Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	client, err = clientv3.New(clientv3.Config{Endpoints: []string{store.DurableEndpoint()}, Logger: zap.NewNop(), DialTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return client, func() {
		client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(sockets)
	}
}

func put(t *testing.T, c *clientv3.Client, key string) int64 {
	t.Helper()
	resp, err := c.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, "{}")).Commit()
	if err != nil || !resp.Succeeded {
		t.Fatalf("writing %s: %v", key, err)
	}
	return resp.Header.Revision
}

func has(t *testing.T, c *clientv3.Client, key string) bool {
	t.Helper()
	resp, err := c.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return len(resp.Kvs) > 0
}

// newServer makes a data directory with the state of a server that has a key "old".
func newServer(t *testing.T, dir string) (l layout.Layout, last int64) {
	t.Helper()
	l = layout.New(dir)
	if err := os.MkdirAll(l.DB(), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := pki.Ensure(pki.Config{Dir: l.TLS(), ClusterDomain: "cluster.local", NodeName: "hub",
		NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, ServiceIPs: []netip.Addr{netip.MustParseAddr("10.43.0.1")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.ServerToken(), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.Mark(), []byte(strings.Replace("This directory is brink's: uninstalling removes what brink keeps in it. (1)\ndata \"D\"\nrun \"/run/brink\"\n", "D", dir, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := own.write(l.StateVersion()); err != nil {
		t.Fatal(err)
	}
	c, stop := run(t, l)
	last = put(t, c, "/registry/pods/old")
	stop()
	return l, last
}

func save(t *testing.T, l layout.Layout) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "a.tar.zst")
	if _, err := Save(t.Context(), Source{Layout: l, Node: "hub", MadeBy: own.Version}, to); err != nil {
		t.Fatal(err)
	}
	return to
}

func write(t *testing.T, l layout.Layout, key string) int64 {
	t.Helper()
	c, stop := run(t, l)
	defer stop()
	return put(t, c, key)
}
