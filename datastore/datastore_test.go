package datastore

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/lifecycle"
	"brink/internal/testerror"
)

// The transactions below are those of the API server.

func TestCreateUpdateDelete(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		ctx := testContext(t)
		first := mustCreate(t, c, "/registry/pods/a", "1")
		if _, err := create(ctx, c, "/registry/pods/a", "2"); err == nil {
			t.Error("created the same key twice")
		}
		second := mustUpdate(t, c, "/registry/pods/a", "2", first)
		if second <= first {
			t.Errorf("revision %d after %d", second, first)
		}
		if _, err := update(ctx, c, "/registry/pods/a", "3", first); err != errConflict {
			t.Errorf("update of an old revision: %v", err)
		}
		resp, err := c.Get(ctx, "/registry/pods/a")
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("get: %v, %v", resp, err)
		}
		if kv := resp.Kvs[0]; string(kv.Value) != "2" || kv.CreateRevision != first || kv.ModRevision != second {
			t.Errorf("got %v", kv)
		}
		if _, err := remove(ctx, c, "/registry/pods/a", first); err != errConflict {
			t.Errorf("delete of an old revision: %v", err)
		}
		third, err := remove(ctx, c, "/registry/pods/a", second)
		if err != nil || third <= second {
			t.Errorf("delete: revision %d, %v", third, err)
		}
		if got := values(t, c, "/registry/pods/"); len(got) != 0 {
			t.Errorf("still there: %v", got)
		}
		if again := mustCreate(t, c, "/registry/pods/a", "4"); again <= third {
			t.Errorf("revision %d after %d", again, third)
		}
	})
}

func TestListPagesAtOneRevision(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		revs := map[string]int64{}
		for _, k := range []string{"a", "b", "c", "d", "e"} {
			revs[k] = mustCreate(t, c, "/list/"+k, "old")
		}
		mustCreate(t, c, "/other", "x")
		page, err := c.Get(testContext(t), "/list/", clientv3.WithRange(clientv3.GetPrefixRangeEnd("/list/")), clientv3.WithLimit(2))
		if err != nil || len(page.Kvs) != 2 || !page.More || page.Count != 5 {
			t.Fatalf("first page: %v, %v", page, err)
		}
		at := page.Header.Revision
		mustUpdate(t, c, "/list/d", "new", revs["d"])
		if _, err := remove(testContext(t), c, "/list/e", revs["e"]); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, c, "/list/f", "new")
		rest, err := c.Get(testContext(t), "/list/b\x00", clientv3.WithRange(clientv3.GetPrefixRangeEnd("/list/")), clientv3.WithRev(at))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, kv := range rest.Kvs {
			got = append(got, string(kv.Key)+"="+string(kv.Value))
		}
		if want := "/list/c=old /list/d=old /list/e=old"; strings.Join(got, " ") != want {
			t.Errorf("at revision %d: %v, want %s", at, got, want)
		}
	})
}

func TestSocketsArePrivate(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t))
	for path, want := range map[string]os.FileMode{
		r.cfg.SocketDir:          0o700,
		r.cfg.Dir:                0o700,
		r.socket(durableSocket):  0o600,
		r.socket(volatileSocket): 0o600,
		r.database():             0o600,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %o, want %o", path, info.Mode().Perm(), want)
		}
	}
}

// A database that is away is waited for, but a stop ends the wait.
func TestStopWhileConnecting(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"postgres://u:p@127.0.0.1:1/db?connect_timeout=1", "mysql://u:p@tcp(127.0.0.1:1)/db"} {
		cfg := testConfig(t)
		cfg.Endpoint = endpoint
		store, err := prepared(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- store.Durable().Run(ctx, func() { t.Error("ready without a database") }) }()
		select {
		case err := <-done:
			if strings.Contains(err.Error(), "u:p") {
				t.Errorf("%q shows the password", err)
			}
		case <-time.After(500 * time.Millisecond):
			cancel()
			select {
			case <-done:
			case <-time.After(patience):
				t.Errorf("%s: does not stop", endpoint)
			}
		}
		cancel()
	}
}

// TestNotPrepared: components of a store whose files were not checked end at once.
func TestNotPrepared(t *testing.T) {
	t.Parallel()
	s, err := New(testConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []lifecycle.Component{s.Durable(), s.Volatile()} {
		testerror.OneLine(t, c.Run(t.Context(), func() { t.Errorf("%s is ready", c.Name) }), "not prepared")
	}
}
