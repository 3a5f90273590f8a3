package datastore

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testwait"
)

// A node that has seen more than this server, whose disk came from an image.
func TestWitness(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t))
	last := mustCreate(t, r.durable, "/registry/pods/a", "x")
	old := r.durable.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(last+1))
	witness(t, r, "liar", last+plausible+1000)
	witness(t, r, "n2", last) // it has seen nothing that this server has not
	if next := mustCreate(t, r.durable, "/registry/pods/b", "x"); next != last+1 {
		t.Errorf("revision %d after claims that change nothing, %d before", next, last)
	}
	if r.log.count("liar") != 1 {
		t.Error("a claim that cannot be true is not told")
	}
	<-old // b
	const seen = 5000
	lease := mustCreate(t, r.volatile, "/registry/leases/a", "x")
	witness(t, r, "n2", seen)
	if next := mustUpdate(t, r.volatile, "/registry/leases/a", "y", lease); next < lease+revisionLost {
		t.Errorf("leases go on at %d, %d was before", next, lease)
	}
	watchFromBefore(t, r.volatile, lease)
	mustBeAbove(t, r.durable, seen)
	select {
	case res := <-old:
		if !errors.Is(res.Err(), rpctypes.ErrCompacted) {
			t.Errorf("the watch that was open goes on: %+v", res)
		}
	case <-time.After(patience):
		t.Error("the watch that was open is told nothing")
	}
	before := mustCreate(t, r.durable, "/registry/pods/c", "x")
	witness(t, r, "n2", before+seen)
	if next := mustCreate(t, r.durable, "/registry/pods/d", "x"); next != before+1 {
		t.Errorf("a node raises the revision twice: %d after %d", next, before)
	}
	mustNotBeFilled(t, r)
}

// witness waits until what a node says was settled.
func witness(t *testing.T, r *running, node string, revision int64) {
	t.Helper()
	r.Witness(node, revision)
	settled(t, r)
}

func settled(t *testing.T, r *running) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		_, _, open := r.witnesses.next()
		if !open {
			return
		}
		if time.Since(begun) > patience {
			t.Fatal("a node's claim is not settled")
		}
	}
}

// A database that hangs keeps no node waiting.
func TestWitnessDoesNotWait(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t))
	last := mustCreate(t, r.durable, "/registry/pods/a", "x")
	log := r.revisions.Load()
	log.db.Lock()
	said := make(chan struct{})
	go func() {
		for i := range int64(5) {
			r.Witness(fmt.Sprintf("n%d", i), last+1000+i)
		}
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(patience):
		t.Error("a node waits for the database")
	}
	log.db.Unlock()
	settled(t, r)
	mustBeAbove(t, r.durable, last+1004)
}

// A raise that fails is tried again, although the node does not come a second time.
func TestRaiseIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t))
	last := mustCreate(t, r.durable, "/registry/pods/a", "x")
	inside := r.blockCeiling(t)
	r.Witness("n2", last+1000)
	for begun := time.Now(); r.log.count("trying again") == 0 && time.Since(begun) < patience; {
		time.Sleep(time.Millisecond)
	}
	r.setCeiling(inside)
	settled(t, r)
	mustBeAbove(t, r.durable, last+1000)
	if n := r.log.count("trying again"); n != 1 {
		t.Errorf("the raise that failed is told %d times", n)
	}
}

// TestLeasesGoOnAfterAFullDisk: the revision of leases is raised as soon as it can be.
func TestLeasesGoOnAfterAFullDisk(t *testing.T) {
	t.Parallel()
	r := start(t, testConfig(t))
	last := mustCreate(t, r.durable, "/registry/pods/a", "x")
	inTheWay := r.path(revisionFile)
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(inTheWay, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.Witness("n2", last+1000)
	testwait.Until(t, "a warning", func() bool { return r.log.count("leases and events do not go on") == 1 })
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "higher revisions of leases", func() bool {
		now, _ := r.volatile.Get(t.Context(), "/leases")
		return now != nil && now.Header.Revision > revisionLost
	})
	mustBeAbove(t, r.durable, last+1000)
}

// blockCeiling makes it impossible to reserve revisions, and returns where they were.
func (r *running) blockCeiling(t *testing.T) (inside string) {
	t.Helper()
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inside = r.ceiling.inside
	r.setCeiling(filepath.Join(blocked, "x"))
	return inside
}

func (r *running) setCeiling(inside string) {
	r.ceiling.mu.Lock()
	defer r.ceiling.mu.Unlock()
	r.ceiling.inside = inside
}

// What was skipped takes no rows.
func mustNotBeFilled(t *testing.T, r *running) {
	t.Helper()
	db, err := sql.Open("sqlite3", dsn(r.database(), "ro"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var rows int
	if err := db.QueryRow(`SELECT COUNT(*) FROM kine WHERE name LIKE 'gap-%'`).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows for what was skipped, %v; want 1", rows, err)
	}
}
