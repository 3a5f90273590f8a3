package datastore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"brink/internal/testdatabase"
)

// elsewhere is cfg of a machine of the same cluster.
func elsewhere(t *testing.T, cfg Config, node string) Config {
	t.Helper()
	other := testConfig(t)
	other.Endpoint, other.ServerCA, other.NodeName = cfg.Endpoint, cfg.ServerCA, node
	return other
}

// wantRefused wants the one line of a store that does not start.
func wantRefused(t *testing.T, r *run, parts ...string) {
	t.Helper()
	err := r.ended(t)
	if err == nil {
		t.Error("it was stopped, not refused")
		return
	}
	for _, part := range append(parts, "the database at ") {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), testdatabase.Password) {
		t.Errorf("not one line without secrets: %q", err)
	}
}

// startHolder runs a server that renews its hold often.
func startHolder(t *testing.T, cfg Config) *running {
	t.Helper()
	log := new(logBuffer)
	cfg.Logger = log.logger()
	store, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	store.remote.link.every = time.Second
	return startStore(t, store, log)
}

// crash ends a store as kill -9 does: the hold stays.
func (r *running) crash() {
	r.remote.hold.held.Store(false)
	r.stop()
}

// A database in use is refused, in the time of a renewal.
func TestSecondServerIsRefused(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		r := startHolder(t, cfg)
		if err := r.Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		second := launch(t, elsewhere(t, cfg, "node-2"))
		wantRefused(t, second, "in use by the server of node node-1", "s ago")
		mustCreate(t, r.durable, "/registry/pods/a", "1") // the first one goes on
		r.stop()
		third := launch(t, elsewhere(t, cfg, "node-3"))
		third.awaitReady(t) // at once, as the hold was given back
		if n := third.log.count("waiting to see whether it renews"); n != 0 {
			t.Errorf("it waited for a server that had stopped")
		}
	})
}

// The server that was killed comes back without waiting; another one waits until
// the hold is old, and then runs.
func TestHoldOfKilledServer(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		start(t, cfg).crash()
		r := start(t, cfg)
		if n := r.log.count("waiting to see whether it renews"); n != 0 {
			t.Error("it waited for itself")
		}
		r.crash()
		other := elsewhere(t, cfg, "node-2")
		log := new(logBuffer)
		other.Logger = log.logger()
		store, err := prepared(other)
		if err != nil {
			t.Fatal(err)
		}
		store.remote.hold.dead = 2 * watchHolder
		startStore(t, store, log)
		if n := log.count("waiting to see whether it renews"); n != 1 {
			t.Errorf("%d lines about waiting, want 1", n)
		}
	})
}

// A server that was paused while another took over writes nothing more and ends.
func TestHoldIsTaken(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		r := launch(t, cfg)
		r.awaitReady(t)
		c := dial(t, r.DurableEndpoint())
		mustCreate(t, c, "/registry/pods/a", "1")
		before, err := os.ReadFile(filepath.Join(cfg.Dir, holderFile))
		if err != nil {
			t.Fatal(err)
		}
		raw := openRaw(t, cfg.Endpoint)
		if _, err := raw.Exec("UPDATE " + ownerTable + " SET holder = 'another', node = 'node-2', counter = counter + 1"); err != nil {
			t.Fatal(err)
		}
		if _, err := create(testContext(t), c, "/registry/pods/b", "1"); status.Code(err) != codes.Unavailable {
			t.Errorf("a write after the hold was lost: %v", err)
		}
		wantRefused(t, r, "taken over by the server of node node-2")
		var rows int
		if err := raw.QueryRow("SELECT COUNT(*) FROM kine WHERE name = '/registry/pods/b'").Scan(&rows); err != nil || rows != 0 {
			t.Errorf("%d rows of a server without the hold, %v", rows, err)
		}
		var holder string
		if err := raw.QueryRow("SELECT holder FROM " + ownerTable).Scan(&holder); err != nil || holder != "another" {
			t.Errorf("the holder is %q, %v", holder, err)
		}
		// It must not take for its own what a copy of its directory has taken.
		again, err := prepared(cfg)
		if err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(filepath.Join(cfg.Dir, holderFile))
		if err != nil || string(after) == string(before) || again.remote.hold.isOwn(r.remote.hold.name()) {
			t.Errorf("the directory has the name from before, %v", err)
		}
	})
}

// Of servers that start at the same moment one gets the database.
func TestOneOfManyGetsTheDatabase(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		var runs []*run
		for i := range 4 {
			runs = append(runs, launch(t, elsewhere(t, cfg, fmt.Sprint("node-", i))))
		}
		ready := 0
		for _, r := range runs {
			select {
			case <-r.ready:
				ready++
			case <-r.done:
			case <-time.After(patience):
				t.Fatal("neither ready nor refused")
			}
		}
		if ready != 1 {
			t.Errorf("%d servers run", ready)
		}
	})
}

func TestAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		r := start(t, cfg)
		if err := r.Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		hash, _, _ := r.remote.cluster.hash()
		other := elsewhere(t, cfg, "node-2")
		other.ServerCA = makeCA(t)
		wantRefused(t, launch(t, other), "another cluster", hash, filepath.Dir(other.ServerCA), "restore")
		other.ServerCA = filepath.Join(t.TempDir(), "server-ca.crt")
		wantRefused(t, launch(t, other), "there is no CA in "+filepath.Dir(other.ServerCA), hash, "restore")
		r.stop()
		start(t, cfg)
	})
}

// Databases from before they said whose they are.
func TestClusterOfOlderDatabase(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		ca, err := os.ReadFile(cfg.ServerCA)
		if err != nil {
			t.Fatal(err)
		}
		r := start(t, cfg)
		mustCreate(t, r.durable, "/registry/namespaces/default", "x")
		r.stop()
		other := elsewhere(t, cfg, "node-2")
		other.ServerCA = filepath.Join(t.TempDir(), "none.crt")
		wantRefused(t, launch(t, other), "holds a cluster", "there is no CA")

		r = start(t, cfg) // a CA, and nothing speaks against it
		mustCreate(t, r.durable, rootCAKey, "k8s\x00ca.crt: "+string(ca))
		r.stop()
		other.ServerCA = makeCA(t)
		wantRefused(t, launch(t, other), "another cluster", "name another CA")
		r = start(t, cfg)
		if err := r.Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.stop()
		wantRefused(t, launch(t, other), "another cluster", "sha256:")
	})
}

// The age of a hold is told by the database's clock, and decides nothing.
func TestClocksDoNotMatter(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		r := startHolder(t, cfg)
		registry := sqlRegistry{openRaw(t, cfg.Endpoint), kind == testdatabase.MariaDB}
		for _, skew := range []string{"- 1000000", "+ 1000000"} {
			if _, err := registry.db.Exec("UPDATE " + ownerTable + " SET renewed = renewed " + skew); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, launch(t, elsewhere(t, cfg, "node-2")), "in use by the server of node node-1")
		}
		if err := r.Health(); err != nil {
			t.Error(err)
		}
	})
}

// What the table of claims promises: each change is made by one only.
func TestRegistryIsConditional(t *testing.T) {
	t.Parallel()
	kinds(t, func(t *testing.T, kind testdatabase.Kind) {
		cfg := externalConfig(t, sharedEndpoint(t, kind))
		start(t, cfg).stop()
		registry := sqlRegistry{openRaw(t, cfg.Endpoint), kind == testdatabase.MariaDB}
		testRegistry(t, registry)
	})
}

func testRegistry(t *testing.T, registry registry) {
	t.Helper()
	ctx := testContext(t)
	seen, err := registry.read(ctx)
	if err != nil || seen.holder != "" {
		t.Fatalf("%+v, %v", seen, err)
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) (bool, error)
		want bool
	}{
		{"take", func(ctx context.Context) (bool, error) { return registry.take(ctx, seen, "a", "node-a") }, true},
		{"take what has changed", func(ctx context.Context) (bool, error) { return registry.take(ctx, seen, "b", "node-b") }, false},
		{"renew", func(ctx context.Context) (bool, error) { return registry.renew(ctx, "a") }, true},
		{"renew another's", func(ctx context.Context) (bool, error) { return registry.renew(ctx, "b") }, false},
		{"belong", func(ctx context.Context) (bool, error) { return registry.belong(ctx, "a", "hash") }, true},
		{"belong without the hold", func(ctx context.Context) (bool, error) { return registry.belong(ctx, "b", "other") }, false},
		{"release another's", func(ctx context.Context) (bool, error) { return false, registry.release(ctx, "b") }, false},
		{"renew after that", func(ctx context.Context) (bool, error) { return registry.renew(ctx, "a") }, true},
	} {
		if got, err := step.do(ctx); err != nil || got != step.want {
			t.Errorf("%s: %v, %v", step.what, got, err)
		}
	}
	got, err := registry.read(ctx)
	if err != nil || got.holder != "a" || got.node != "node-a" || got.cluster != "hash" || got.counter <= seen.counter || got.age != unknownAge && got.age < 0 || got.age > time.Hour {
		t.Errorf("%+v, %v", got, err)
	}
	if err := registry.release(ctx, "a"); err != nil {
		t.Error(err)
	}
	if got, err := registry.read(ctx); err != nil || got.holder != "" || got.cluster != "hash" {
		t.Errorf("after the release: %+v, %v", got, err)
	}
}
