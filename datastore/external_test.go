package datastore

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/lifecycle"
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

func TestPostgres(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.Endpoint = startPostgres(t)
	store, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var group lifecycle.Group
	group.Add(store.Durable(), store.Volatile())
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- group.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatal("not ready in time")
	}
	c := dial(t, store.VolatileEndpoint()) // shared with the durable one
	rev := mustCreate(t, c, "/registry/pods/a", "1")
	w := c.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(rev+1))
	mustUpdate(t, c, "/registry/pods/a", "2", rev)
	if r := <-w; r.Err() != nil || len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "2" {
		t.Errorf("watch: %+v", r)
	}
	if got := values(t, c, "/registry/pods/"); got["/registry/pods/a"] != "2" {
		t.Errorf("got %v", got)
	}
	c.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
