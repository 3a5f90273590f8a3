package datastore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"brink/internal/lifecycle"
)

// patience is for conditions that normally come within milliseconds; the
// machine may be busy with a big compile.
const patience = 60 * time.Second

// running is a Store with its components started and a client on each socket.
type running struct {
	*Store
	durable, volatile *clientv3.Client
	log               *logBuffer
	stop              func()
}

// logBuffer collects log lines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), part)
}

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// testConfig has short socket paths: t.TempDir of a long test name is too long
// for a unix socket.
func testConfig(t testing.TB) Config {
	t.Helper()
	sockets, err := os.MkdirTemp("", "ds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(sockets) })
	return Config{Dir: filepath.Join(t.TempDir(), "db"), SocketDir: sockets}
}

func start(t testing.TB, cfg Config) *running {
	t.Helper()
	log := new(logBuffer)
	cfg.Logger = log.logger()
	store, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return startStore(t, store, log)
}

func startStore(t testing.TB, store *Store, log *logBuffer) *running {
	t.Helper()
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
	r := &running{Store: store, log: log}
	r.durable, r.volatile = dial(t, store.DurableEndpoint()), dial(t, store.VolatileEndpoint())
	r.stop = sync.OnceFunc(func() {
		r.durable.Close()
		r.volatile.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stopping: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// reopen opens the database of r without serving it. shut may be called before
// the test's end.
func (r *running) reopen(t *testing.T) (store *sqliteStore, shut func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var closed sync.WaitGroup
	store, err := openSQLite(ctx, &closed, r.database(), r.disk)
	shut = func() {
		cancel()
		closed.Wait()
	}
	t.Cleanup(shut)
	if err != nil {
		t.Fatal(err)
	}
	return store, shut
}

func dial(t testing.TB, endpoint string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: patience, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func create(ctx context.Context, c *clientv3.Client, key, value string, opts ...clientv3.OpOption) (int64, error) {
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, value, opts...)).Commit()
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, fmt.Errorf("%s exists", key)
	}
	return resp.Header.Revision, nil
}

func update(ctx context.Context, c *clientv3.Client, key, value string, revision int64, opts ...clientv3.OpOption) (int64, error) {
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, value, opts...)).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, errConflict
	}
	return resp.Header.Revision, nil
}

func remove(ctx context.Context, c *clientv3.Client, key string, revision int64) (int64, error) {
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpDelete(key)).
		Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return 0, err
	}
	if !resp.Succeeded {
		return 0, errConflict
	}
	return resp.Header.Revision, nil
}

var errConflict = errors.New("conflict")

func mustCreate(t testing.TB, c *clientv3.Client, key, value string, opts ...clientv3.OpOption) int64 {
	t.Helper()
	rev, err := create(testContext(t), c, key, value, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func mustUpdate(t testing.TB, c *clientv3.Client, key, value string, revision int64) int64 {
	t.Helper()
	rev, err := update(testContext(t), c, key, value, revision)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func values(t testing.TB, c *clientv3.Client, prefix string, opts ...clientv3.OpOption) map[string]string {
	t.Helper()
	resp, err := c.Get(testContext(t), prefix, append(opts, clientv3.WithPrefix())...)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		out[string(kv.Key)] = string(kv.Value)
	}
	return out
}

// stores runs a test on both stores: what the API server sees is the same.
func stores(t *testing.T, test func(t *testing.T, r *running, c *clientv3.Client)) {
	for _, name := range []string{"durable", "volatile"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, testConfig(t))
			c := r.durable
			if name == "volatile" {
				c = r.volatile
			}
			test(t, r, c)
		})
	}
}

// prepared returns a store that has checked its files.
func prepared(cfg Config) (*Store, error) {
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return s, s.Prepare()
}
