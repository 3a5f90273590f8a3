package datastore

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/server"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
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
	store, err := New(cfg)
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

// The transactions below are those of the API server.

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

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
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

func TestWatch(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		ctx := testContext(t)
		before := mustCreate(t, c, "/w/a", "1")
		fromPast := c.Watch(ctx, "/w/", clientv3.WithPrefix(), clientv3.WithRev(before), clientv3.WithPrevKV())
		fromNow := c.Watch(ctx, "/w/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithPrevKV())
		if r := <-fromNow; !r.Created {
			t.Fatalf("first response is not the creation: %v", r)
		}
		second := mustUpdate(t, c, "/w/a", "2", before)
		mustCreate(t, c, "/elsewhere", "x")
		third, err := remove(ctx, c, "/w/a", second)
		if err != nil {
			t.Fatal(err)
		}
		wantNow := []string{fmt.Sprintf("PUT /w/a=2@%d was 1", second), fmt.Sprintf("DELETE /w/a=@%d was 2", third)}
		wantPast := append([]string{fmt.Sprintf("PUT /w/a=1@%d was ", before)}, wantNow...)
		expectEvents(t, "from now", fromNow, wantNow)
		expectEvents(t, "from the past", fromPast, wantPast)
	})
}

func expectEvents(t *testing.T, name string, w clientv3.WatchChan, want []string) {
	t.Helper()
	var got []string
	for len(got) < len(want) {
		r, ok := <-w
		if !ok || r.Err() != nil {
			t.Fatalf("%s: watch ended after %v: %v", name, got, r.Err())
		}
		for _, e := range r.Events {
			got = append(got, describeEvent((*mvccpb.Event)(e)))
		}
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func describeEvent(e *mvccpb.Event) string {
	was := ""
	if e.PrevKv != nil {
		was = string(e.PrevKv.Value)
	}
	return fmt.Sprintf("%s %s=%s@%d was %s", e.Type, e.Kv.Key, e.Kv.Value, e.Kv.ModRevision, was)
}

// Every watch sees every event once and in order, also when it joins in the
// middle of the traffic.
func TestWatchesJoiningUnderTraffic(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		const writers, each, watches = 4, 100, 8
		ctx := testContext(t)
		first := mustCreate(t, c, "/t/first", "")
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					if _, err := create(ctx, c, fmt.Sprintf("/t/%d-%03d", w, i), "v"); err != nil {
						t.Error(err)
					}
				}
			})
		}
		for range watches {
			wg.Go(func() {
				var last int64
				seen := 0
				for r := range c.Watch(ctx, "/t/", clientv3.WithPrefix(), clientv3.WithRev(first)) {
					for _, e := range r.Events {
						if e.Kv.ModRevision <= last {
							t.Errorf("revision %d after %d", e.Kv.ModRevision, last)
						}
						last = e.Kv.ModRevision
						seen++
					}
					if seen == writers*each+1 {
						return
					}
				}
				t.Errorf("watch ended after %d events", seen)
			})
			time.Sleep(5 * time.Millisecond)
		}
		wg.Wait()
	})
}

// A progress notification promises that everything up to its revision was sent.
func TestProgressComesAfterItsEvents(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		ctx := clientv3.WithRequireLeader(testContext(t))
		w := c.Watch(ctx, "/p/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		<-w
		for i := range 50 {
			var rev int64
			if i%2 == 0 {
				rev = mustCreate(t, c, fmt.Sprintf("/p/%d", i), "")
			} else {
				rev = mustCreate(t, c, fmt.Sprintf("/quiet/%d", i), "")
			}
			if err := c.RequestProgress(ctx); err != nil {
				t.Fatal(err)
			}
			sent := i%2 != 0
			for r := range w {
				sent = sent || len(r.Events) > 0
				if r.IsProgressNotify() && r.Header.Revision >= rev {
					break
				}
			}
			if !sent {
				t.Fatalf("round %d: progress to %d without the event", i, rev)
			}
		}
	})
}

// busyHistory is a log that moves on while a watch reads its past.
type busyHistory struct {
	*memoryStore
	meanwhile func()
	err       error
}

func (b *busyHistory) since(ctx context.Context, key, end string, from int64) ([]*server.Event, int64, error) {
	events, upTo, err := b.memoryStore.since(ctx, key, end, from)
	b.meanwhile()
	return events, upTo, errors.Join(err, b.err)
}

// Progress is for all watches of a stream: not before the one that joins has
// its past, and not never.
func TestWatchJoiningHoldsProgressBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want []string
	}{
		"joins": {nil, []string{"created", "2 events", "progress 2"}},
		"fails": {errors.New("disk"), []string{"created", "canceled", "progress 2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			log := &busyHistory{memoryStore: newMemoryStore(0, reserveAlways), err: c.err}
			log.Create(ctx, "/j/a", nil, 0)
			h, err := newHub(ctx, log)
			if err != nil {
				t.Fatal(err)
			}
			log.Create(ctx, "/j/b", nil, 0)
			published, _, err := log.memoryStore.since(ctx, "", "", 2)
			if err != nil {
				t.Fatal(err)
			}
			log.meanwhile = func() { h.publish(published) }
			st := newStream()
			h.streams[st] = struct{}{}

			h.requestProgress(ctx, st) // of revision 2, which was not handed out yet
			h.create(ctx, st, &etcdserverpb.WatchCreateRequest{Key: []byte("/j/"), RangeEnd: []byte("/j0"), StartRevision: 1})
			responses, _ := h.take(st)
			var got []string
			for _, r := range responses {
				got = append(got, describeResponse(r))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("sent %q, want %q", got, c.want)
			}
		})
	}
}

func describeResponse(r *etcdserverpb.WatchResponse) string {
	switch {
	case r.Created:
		return "created"
	case r.Canceled:
		return "canceled"
	case r.WatchId == noWatch:
		return fmt.Sprint("progress ", r.Header.Revision)
	}
	return fmt.Sprint(len(r.Events), " events")
}

// The API server's health check and compactor.
func TestAPIServerHousekeeping(t *testing.T) {
	t.Parallel()
	stores(t, func(t *testing.T, _ *running, c *clientv3.Client) {
		ctx := testContext(t)
		if health, err := c.Get(ctx, "/registry/health"); err != nil || len(health.Kvs) != 1 {
			t.Errorf("health key: %v, %v", health, err)
		}
		rev := mustCreate(t, c, "/x", "")
		for version := range int64(3) {
			resp, err := c.Txn(ctx).
				If(clientv3.Compare(clientv3.Version("compact_rev_key"), "=", version)).
				Then(clientv3.OpPut("compact_rev_key", fmt.Sprint(version))).
				Else(clientv3.OpGet("compact_rev_key")).Commit()
			if err != nil || !resp.Succeeded || resp.Header.Revision != rev {
				t.Fatalf("version %d: %v, %v; want success at revision %d", version, resp, err, rev)
			}
		}
		resp, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.Version("compact_rev_key"), "=", 0)).
			Then(clientv3.OpPut("compact_rev_key", "0")).
			Else(clientv3.OpGet("compact_rev_key")).Commit()
		if err != nil || resp.Succeeded {
			t.Fatalf("stale version: %v, %v", resp, err)
		}
		if kv := resp.Responses[0].GetResponseRange().Kvs[0]; kv.Version != 3 || string(kv.Value) != "2" {
			t.Errorf("got %v, want version 3 and value 2", kv)
		}
		if _, err := c.Compact(ctx, rev); err != nil {
			t.Errorf("compact: %v", err)
		}
		if _, err := c.Compact(ctx, rev+1000); err == nil {
			t.Error("compacted the future")
		}
		if status, err := c.Status(ctx, c.Endpoints()[0]); err != nil || !strings.HasPrefix(status.Version, "3.") {
			t.Errorf("status: %v, %v", status, err)
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

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cfg  Config
		want []string // parts of the error; none: valid
	}{
		{"sqlite", Config{Dir: "/a", SocketDir: "/b"}, nil},
		{"postgres", Config{Dir: "/a", SocketDir: "/b", Endpoint: "postgres://u:p@h/d"}, nil},
		{"etcd", Config{Dir: "/a", SocketDir: "/b", Endpoint: "https://1:2379,https://2:2379"}, nil},
		{"empty", Config{}, []string{"datastore directory", "socket directory"}},
		{"nats", Config{Dir: "/a", SocketDir: "/b", Endpoint: "nats://secret@h"}, []string{`unknown scheme "nats"`}},
		{"no scheme", Config{Dir: "/a", SocketDir: "/b", Endpoint: "secret"}, []string{"scheme://address"}},
		{"long socket", Config{Dir: "/a", SocketDir: "/" + strings.Repeat("x", 100)}, []string{"too long"}},
		{"half a certificate", Config{Dir: "/a", SocketDir: "/b", CertFile: "/c"}, []string{"both or neither"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.cfg.Validate()
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("got %v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not contain %q", err, part)
				}
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%q repeats the endpoint", err)
			}
		})
	}
}

func TestExternalEndpoints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ endpoint, durable string }{
		{"https://10.0.0.1:2379,https://10.0.0.2:2379", "https://10.0.0.1:2379,https://10.0.0.2:2379"},
		{"postgres://db/kine", "unix:///run/x/durable.sock"},
	} {
		s := &Store{cfg: Config{SocketDir: "/run/x", Endpoint: c.endpoint}}
		s.engine, _ = s.cfg.engine()
		if got := s.DurableEndpoint(); got != c.durable {
			t.Errorf("%s: durable at %s, want %s", c.endpoint, got, c.durable)
		}
		if got := s.VolatileEndpoint(); got != c.durable {
			t.Errorf("%s: volatile at %s, want it shared at %s", c.endpoint, got, c.durable)
		}
	}
}

// That an acknowledged write survives a power cut cannot be tried here, only
// that SQLite is told so on every connection.
func TestEveryCommitIsSynced(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	if _, err := New(cfg); err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(&connector{dsn: writerDSN(cfg.Dir+"/"+databaseFile, "rw"), disk: newCondition(nil, "")})
	defer db.Close()
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal"} {
		var got string
		if err := db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
		}
	}
}

// The mark is how the next start knows that the run before ended badly.
func TestInUseMark(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	marked := func() bool {
		_, err := os.Stat(filepath.Join(cfg.Dir, inUseFile))
		return err == nil
	}
	r := start(t, cfg)
	if !marked() {
		t.Error("no mark while running")
	}
	r.stop()
	if marked() {
		t.Error("a mark after a clean stop")
	}
	killChild(t, cfg, "m", 10)
	if !marked() {
		t.Error("no mark after kill -9")
	}
}

// A database that is away is waited for, but a stop ends the wait.
func TestStopWhileConnecting(t *testing.T) {
	t.Parallel()
	for _, endpoint := range []string{"postgres://u:p@127.0.0.1:1/db?connect_timeout=1", "mysql://u:p@tcp(127.0.0.1:1)/db"} {
		cfg := testConfig(t)
		cfg.Endpoint = endpoint
		store, err := New(cfg)
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

// The indexes that were left out must not turn a query of kine into a scan of
// the table.
func TestQueriesUseIndexes(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	mustCreate(t, r.durable, "/a", "x")
	store, _ := r.reopen(t)
	d := store.dialect
	for name, q := range map[string]string{
		"get": d.GetSingleValSQL.Query, "list": d.ListCurrentValSQL.Query, "list at": d.GetRevisionAfterValSQL.Query,
		"count": d.CountCurrentSQL.Query, "after": d.AfterSingleOldValSQL.Query, "after all": d.AfterAllOldValSQL.Query,
		"current": d.CurrentRevSQL.Query, "compact rev": d.CompactRevSQL.Query, "compact": d.CompactSQL.Query,
	} {
		plan := queryPlan(t, d.DB, q)
		if strings.Contains(plan, "SCAN kine\n") || strings.Contains(plan, "SCAN kv") {
			t.Errorf("%s scans the table:\n%s", name, plan)
		}
	}
}

func queryPlan(t *testing.T, db *sql.DB, q string) string {
	t.Helper()
	args := make([]any, strings.Count(q, "?"))
	for i := range args {
		args[i] = 1
	}
	rows, err := db.Query("EXPLAIN QUERY PLAN "+q, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(detail + "\n")
	}
	return plan.String()
}
