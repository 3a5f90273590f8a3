package datastore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"brink/internal/lifecycle"
	"brink/internal/testdatabase"
	"brink/internal/testwait"
)

// writer creates objects until it is stopped, and remembers what was acknowledged.
type writer struct {
	acked map[string]bool
	codes map[codes.Code]int
	stop  func()
}

func startWriter(t *testing.T, c *clientv3.Client, name string) *writer {
	w := &writer{acked: map[string]bool{}, codes: map[codes.Code]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			key := fmt.Sprintf("/registry/%s/%d", name, i)
			_, err := create(testContext(t), c, key, "x")
			if err == nil {
				w.acked[key] = true
			} else {
				w.codes[status.Code(err)]++
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	w.stop = sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})
	t.Cleanup(w.stop)
	return w
}

// A database that is stopped, killed or hangs: requests are told so at once, the
// log has a line at each end, and afterwards all goes on by itself.
func TestDatabaseGoesAway(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		db := newDatabase(t, kind)
		r := start(t, externalConfig(t, db.Endpoint("state")))
		first := mustCreate(t, r.durable, "/registry/first", "1")
		watch := r.durable.Watch(testContext(t), "/registry/late", clientv3.WithRev(first))
		hang := func() error { return db.Signal(syscall.SIGSTOP) }
		goOn := func() error { return db.Signal(syscall.SIGCONT) }
		cases := []struct {
			name            string
			leave, comeBack func() error
		}{{"stopped", db.Stop, db.Start}, {"killed", db.Kill, db.Start}, {"hanging", hang, goOn}}
		if kind == testdatabase.Postgres {
			cases = cases[:2] // its processes, one a connection, do not hang with it
		}
		for i, c := range cases {
			t.Log(c.name)
			r.outage(t, c.name, fmt.Sprint("/registry/late", i), c.leave, c.comeBack)
		}
		if n := r.log.count("requests are refused until it is back"); n != len(cases) {
			t.Errorf("%d lines about the loss, want %d", n, len(cases))
		}
		if n := r.log.count("the database is back"); n != len(cases) {
			t.Errorf("%d lines about the return, want %d", n, len(cases))
		}
		mustCreate(t, r.durable, "/registry/late", "1")
		select {
		case got := <-watch:
			if got.Err() != nil || len(got.Events) != 1 || string(got.Events[0].Kv.Key) != "/registry/late" {
				t.Errorf("the watch from before got %+v", got)
			}
		case <-time.After(patience):
			t.Error("the watch from before got nothing")
		}
	})
}

// outage takes the database away from a store that is written to. What was acknowledged
// is there afterwards; late is written when it is back.
func (r *running) outage(t *testing.T, name, late string, leave, comeBack func() error) {
	t.Helper()
	w := startWriter(t, r.durable, name)
	testwait.Until(t, "writes", func() bool { return r.has(t, "/registry/"+name+"/1") })
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "it is said that the database is away", func() bool { return r.Health() != nil })
	if err := r.Health().Error(); !strings.Contains(err, "is away (since ") || strings.Contains(err, testdatabase.Password) {
		t.Error(err)
	}
	if _, err := create(testContext(t), r.durable, "/registry/refused", "1"); status.Code(err) != codes.Unavailable {
		t.Errorf("write while away: %v", err)
	}
	if err := comeBack(); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "writes work", func() bool {
		_, err := create(testContext(t), r.durable, late, "1")
		return err == nil
	})
	if err := r.Health(); err != nil {
		t.Errorf("writes work, but %v", err)
	}
	w.stop()
	for code, n := range w.codes {
		if code != codes.Unavailable {
			t.Errorf("%d requests got %v", n, code)
		}
	}
	missing := 0
	got := values(t, r.durable, "/registry/"+name+"/")
	for key := range w.acked {
		if got[key] == "" {
			missing++
		}
	}
	if missing > 0 || len(w.acked) == 0 {
		t.Errorf("%d of %d acknowledged writes are lost", missing, len(w.acked))
	}
}

// has reports whether a key can be read.
func (r *running) has(t *testing.T, key string) bool {
	got, err := r.durable.Get(testContext(t), key)
	return err == nil && len(got.Kvs) == 1
}

// run is a store that nobody waits for.
type run struct {
	*Store
	log   *logBuffer
	ready chan struct{}
	done  chan error
	stop  context.CancelFunc
}

func launch(t *testing.T, cfg Config) *run {
	t.Helper()
	return launchRenewing(t, cfg, time.Second)
}

// launchRenewing launches a store that renews its hold so often.
func launchRenewing(t *testing.T, cfg Config, every time.Duration) *run {
	t.Helper()
	log := new(logBuffer)
	cfg.Logger = log.logger()
	store, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	store.remote.link.every = every
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	t.Cleanup(func() { // its directory goes next
		cancel()
		<-over
	})
	r := &run{Store: store, log: log, ready: make(chan struct{}), done: make(chan error, 1), stop: cancel}
	var group lifecycle.Group
	group.Add(store.Durable())
	go func() {
		defer close(over)
		r.done <- group.Run(ctx, func() { close(r.ready) })
	}()
	return r
}

// ended is the error with which a store ended by itself.
func (r *run) ended(t *testing.T) error {
	t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		t.Fatal("it runs on")
		return nil
	}
}

func (r *run) awaitReady(t *testing.T) {
	t.Helper()
	select {
	case <-r.ready:
	case err := <-r.done:
		t.Fatalf("it ended: %v", err)
	case <-time.After(patience):
		t.Fatal("not ready in time")
	}
}

func TestDatabaseIsAwayAtStart(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		db := newDatabase(t, kind)
		if err := db.Stop(); err != nil {
			t.Fatal(err)
		}
		r := launch(t, externalConfig(t, db.Endpoint("state")))
		testwait.Until(t, "it is said that the database is away", func() bool { return r.Health() != nil })
		time.Sleep(3 * retryEvery)
		if n := r.log.count("level=WARN") + r.log.count("level=ERROR"); n != 1 {
			t.Errorf("%d lines while waiting, want 1", n)
		}
		if err := db.Start(); err != nil {
			t.Fatal(err)
		}
		r.awaitReady(t)
		if err := r.Health(); err != nil {
			t.Error(err)
		}
		r.stop()
		if err := r.ended(t); err != nil {
			t.Error(err)
		}
	})
}

// Waiting for a database that is away ends when it is asked to.
func TestWaitingForDatabaseStops(t *testing.T) {
	t.Parallel()
	r := launch(t, externalConfig(t, "postgres://u:"+testdatabase.Password+"@127.0.0.1:1/state"))
	testwait.Until(t, "it is said that the database is away", func() bool { return r.Health() != nil })
	r.stop()
	if err := r.ended(t); err != nil {
		t.Error(err)
	}
	if r.log.count(testdatabase.Password) != 0 {
		t.Error("the password is in the log")
	}
}

// A database that will never let this server in is an error at once.
func TestDatabaseRefuses(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		endpoint := sharedEndpoint(t, kind)
		r := launch(t, externalConfig(t, strings.Replace(endpoint, testdatabase.Password, "wr0ng", 1)))
		err := r.ended(t)
		if err == nil || strings.Contains(err.Error(), "wr0ng") || strings.Contains(err.Error(), "\n") {
			t.Errorf("wrong password: %v", err)
		}
	})
}
