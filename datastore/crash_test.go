package datastore

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"brink/internal/lifecycle"
)

// childEnv makes the test binary a server that writes until it is killed:
// directory, socket directory, prefix of the keys.
const childEnv = "DATASTORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		fmt.Fprintln(os.Stderr, beChild(strings.Split(spec, ";")))
		os.Exit(1)
	}
	code := m.Run()
	closeShared()
	os.Exit(code)
}

// beChild runs until it is killed; the benchmark's children only serve.
func beChild(spec []string) error {
	switch spec[2] {
	case "serve-kine":
		if _, err := startKine(spec[0], spec[1]+"/"+durableSocket, "NORMAL"); err != nil {
			return err
		}
		select {}
	case "serve-brink":
		if _, err := serveChild(spec); err != nil {
			return err
		}
		select {}
	}
	store, err := serveChild(spec)
	if err != nil {
		return err
	}
	if spec[2] == "renew-lease" {
		return renewUntilKilled(store)
	}
	return writeUntilKilled(store, spec[2])
}

// serveChild returns when the stores are ready.
func serveChild(spec []string) (*Store, error) {
	slog.SetDefault(slog.New(slog.NewTextHandler(io.Discard, nil)))
	store, err := prepared(Config{Dir: spec[0], SocketDir: spec[1]})
	if err != nil {
		return nil, err
	}
	var group lifecycle.Group
	group.Add(store.Durable(), store.Volatile())
	ready, failed := make(chan struct{}), make(chan error, 1)
	go func() { failed <- group.Run(context.Background(), func() { close(ready) }) }()
	select {
	case <-ready:
		return store, nil
	case err := <-failed:
		return nil, err
	}
}

// writeUntilKilled prints a line for every acknowledged write: the store, the
// key and the revision.
func writeUntilKilled(store *Store, prefix string) error {
	errs := make(chan error)
	for name, endpoint := range map[string]string{"durable": store.DurableEndpoint(), "volatile": store.VolatileEndpoint()} {
		for writer := range 3 {
			go func() { errs <- keepWriting(name, endpoint, fmt.Sprintf("%s-%d", prefix, writer)) }()
		}
	}
	return <-errs
}

// renewUntilKilled prints the same lines for the renewals of a lease, whose
// value counts them.
func renewUntilKilled(store *Store) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{store.VolatileEndpoint()}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	rev, err := create(context.Background(), c, leaseKey, "0")
	for n := 1; err == nil; n++ {
		fmt.Printf("volatile %s %d\n", leaseKey, rev)
		rev, err = update(context.Background(), c, leaseKey, strconv.Itoa(n), rev)
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func keepWriting(store, endpoint, prefix string) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		key := fmt.Sprintf("/kill/%s-%06d", prefix, i)
		rev, err := create(context.Background(), c, key, strings.Repeat(key, 20))
		if err != nil {
			return err
		}
		fmt.Printf("%s %s %d\n", store, key, rev)
	}
}

type ack struct {
	store, key string
	revision   int64
}

// killChild runs a child and kills it after some acknowledged writes.
func killChild(t *testing.T, cfg Config, prefix string, writes int) []ack {
	t.Helper()
	return killChildWhen(t, cfg, prefix, func(acks []ack) bool { return len(acks) >= writes })
}

// killChildWhen asks after every acknowledged write whether it is time. It
// returns those that were acknowledged before the child was dead.
func killChildWhen(t *testing.T, cfg Config, prefix string, isTime func([]ack) bool) []ack {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{cfg.Dir, cfg.SocketDir, prefix}, ";"))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	hang := time.AfterFunc(patience, func() { child.Process.Kill() })
	defer hang.Stop()
	var acks []ack
	killed := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			continue // the line during which it was killed
		}
		rev, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		acks = append(acks, ack{fields[0], fields[1], rev})
		if !killed && isTime(acks) {
			killed = true
			child.Process.Kill()
		}
	}
	child.Wait()
	if !killed {
		t.Fatalf("child ended after %d writes", len(acks))
	}
	return acks
}

func TestKill(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	var acks []ack
	var lastVolatile int64
	for round := range 5 {
		killed := killChild(t, cfg, fmt.Sprint(round), 200+150*round)
		acks = append(acks, killed...)
		for _, a := range killed {
			if a.store == "volatile" && a.revision <= lastVolatile {
				t.Fatalf("round %d: volatile revision %d, but %d was handed out before", round, a.revision, lastVolatile)
			}
		}
		for _, a := range killed {
			if a.store == "volatile" {
				lastVolatile = max(lastVolatile, a.revision)
			}
		}
		if round%2 == 0 { // look only now and then: damage would add up
			checkKilled(t, cfg, acks)
		}
	}
	r := start(t, cfg)
	got := values(t, r.durable, "/kill/")
	n := 0
	for _, a := range acks {
		if a.store != "durable" {
			continue
		}
		n++
		if got[a.key] != strings.Repeat(a.key, 20) {
			t.Errorf("%s was acknowledged and is %.20q", a.key, got[a.key])
		}
	}
	t.Logf("%d acknowledged writes survived", n)
	watchFromBefore(t, r.volatile, lastVolatile)
}

func checkKilled(t *testing.T, cfg Config, acks []ack) {
	t.Helper()
	db, err := sql.Open("sqlite3", dsn(cfg.Dir+"/"+databaseFile, "ro"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var verdict string
	if err := db.QueryRow(`PRAGMA integrity_check`).Scan(&verdict); err != nil || verdict != "ok" {
		t.Fatalf("integrity check: %s, %v", verdict, err)
	}
	for _, a := range acks {
		if a.store != "durable" {
			continue
		}
		var rev int64
		if err := db.QueryRow(`SELECT id FROM kine WHERE name = ?`, a.key).Scan(&rev); err != nil || rev != a.revision {
			t.Errorf("%s was acknowledged with revision %d and has %d, %v", a.key, a.revision, rev, err)
		}
	}
}

// watchFromBefore resumes a watch from a revision of a dead process.
func watchFromBefore(t *testing.T, c *clientv3.Client, revision int64) {
	t.Helper()
	w := c.Watch(testContext(t), "/kill/", clientv3.WithPrefix(), clientv3.WithRev(revision))
	select {
	case r := <-w:
		if r.CompactRevision < revision {
			t.Errorf("watch from %d: got %+v, want a compacted error", revision, r)
		}
	case <-time.After(patience):
		t.Error("watch from before the restart stays silent")
	}
}
