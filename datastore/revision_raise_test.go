package datastore

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// copyDir copies the files of a directory.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func mustRemove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// mustBeAbove writes and wants a revision that was never handed out, and that what
// went on from an older one is told to begin anew.
func mustBeAbove(t *testing.T, c *clientv3.Client, highest int64) {
	t.Helper()
	first := mustCreate(t, c, fmt.Sprintf("/registry/pods/after-%d", highest), "x")
	if first <= highest {
		t.Errorf("the first new revision is %d, and %d was handed out before", first, highest)
	}
	w := c.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(highest+1))
	select {
	case r := <-w:
		if !errors.Is(r.Err(), rpctypes.ErrCompacted) || r.CompactRevision <= highest {
			t.Errorf("a watch that saw %d goes on: %+v, want compacted", highest, r)
		}
	case <-time.After(patience):
		t.Error("a watch from before stays silent")
	}
	if _, err := c.Get(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(highest)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("a list at %d: %v, want compacted", highest, err)
	}
	mustGoOn(t, c, first)
}

// mustGoOn wants a watch from a revision on to work, and lists.
func mustGoOn(t *testing.T, c *clientv3.Client, from int64) {
	t.Helper()
	w := c.Watch(testContext(t), "/registry/pods/", clientv3.WithPrefix(), clientv3.WithRev(from))
	key := fmt.Sprintf("/registry/pods/on-%d", from)
	mustCreate(t, c, key, "x")
	seen := map[string]bool{}
	for !seen[key] {
		r, ok := <-w
		if !ok || r.Err() != nil {
			t.Fatalf("a new watch from %d: %v", from, r.Err())
		}
		for _, e := range r.Events {
			seen[string(e.Kv.Key)] = true
		}
	}
	if got := values(t, c, "/registry/pods/"); got[key] != "x" {
		t.Errorf("lists lack what was written: %v", got)
	}
}

// Every way in which state goes back. prepare leaves the files of a server that is
// down, and returns the highest revision that was acknowledged.
func TestRevisionsNeverComeTwice(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[string]func(t *testing.T, cfg *Config) int64{
		"an older database is put back": func(t *testing.T, cfg *Config) int64 {
			return olderCopy(t, cfg, func(older string) {
				mustRemove(t, filepath.Join(cfg.Dir, databaseFile))
				if err := os.Rename(filepath.Join(older, databaseFile), filepath.Join(cfg.Dir, databaseFile)); err != nil {
					t.Fatal(err)
				}
			})
		},
		"an older directory is put back": func(t *testing.T, cfg *Config) int64 {
			return olderCopy(t, cfg, func(older string) {
				mustRemove(t, cfg.Dir)
				copyDir(t, older, cfg.Dir)
			})
		},
		"the directory is lost": func(t *testing.T, cfg *Config) int64 {
			return olderCopy(t, cfg, func(string) { mustRemove(t, cfg.Dir) })
		},
		"the outer copy is lost and an older database put back": func(t *testing.T, cfg *Config) int64 {
			return olderCopy(t, cfg, func(older string) {
				mustRemove(t, filepath.Join(cfg.Dir, databaseFile), cfg.CeilingFile)
				if err := os.Rename(filepath.Join(older, databaseFile), filepath.Join(cfg.Dir, databaseFile)); err != nil {
					t.Fatal(err)
				}
			})
		},
		"the WAL is lost": func(t *testing.T, cfg *Config) int64 {
			highest := killed(t, cfg)
			mustRemove(t, filepath.Join(cfg.Dir, databaseFile+"-wal"))
			return highest
		},
		"the WAL is garbled": func(t *testing.T, cfg *Config) int64 {
			highest := killed(t, cfg)
			wal := filepath.Join(cfg.Dir, databaseFile+"-wal")
			info, err := os.Stat(wal)
			if err != nil {
				t.Fatal(err)
			}
			overwrite(t, wal, info.Size()/2, strings.Repeat("x", 512))
			return highest
		},
		"it is set aside": func(t *testing.T, cfg *Config) int64 {
			highest := killed(t, cfg)
			overwrite(t, filepath.Join(cfg.Dir, databaseFile), 0, strings.Repeat("\x00", 100))
			cfg.SetAsideDamaged = true
			return highest
		},
		"it is set aside and nothing is known": func(t *testing.T, cfg *Config) int64 {
			highest := killed(t, cfg)
			overwrite(t, filepath.Join(cfg.Dir, databaseFile), 0, strings.Repeat("\x00", 100))
			mustRemove(t, filepath.Join(cfg.Dir, ceilingFile), cfg.CeilingFile)
			cfg.SetAsideDamaged = true
			return highest
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			cfg.CeilingFile = filepath.Join(t.TempDir(), "etc", "revision")
			highest := prepare(t, &cfg)
			mustBeAbove(t, start(t, cfg).durable, highest)
		})
	}
}

// olderCopy makes a copy of the directory before further writes and lets restore do
// something with it.
func olderCopy(t *testing.T, cfg *Config, restore func(older string)) (highest int64) {
	t.Helper()
	r := start(t, *cfg)
	mustCreate(t, r.durable, "/registry/pods/old", "x")
	r.stop()
	older := filepath.Join(t.TempDir(), "older")
	copyDir(t, cfg.Dir, older)
	r = start(t, *cfg)
	for i := range 100 {
		highest = mustCreate(t, r.durable, fmt.Sprintf("/registry/pods/%d", i), "x")
	}
	r.stop()
	restore(older)
	return highest
}

// haveDurable is when so many writes of the durable store were acknowledged, which is
// much slower than the other one where the disk is busy.
func haveDurable(writes int) func([]ack) bool {
	return func(acks []ack) bool {
		durable := 0
		for _, a := range acks {
			if a.store == "durable" {
				durable++
			}
		}
		return durable >= writes
	}
}

// killed leaves what a killed process does. A child knows nothing of the outer copy.
func killed(t *testing.T, cfg *Config) (highest int64) {
	t.Helper()
	for _, a := range killChildWhen(t, *cfg, "k", haveDurable(100)) {
		if a.store == "durable" {
			highest = max(highest, a.revision)
		}
	}
	return highest
}

// What belongs to another cluster counts for nothing, and a clean restart skips
// nothing.
func TestCeilingIsOfOneCluster(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	cfg.CeilingFile = filepath.Join(t.TempDir(), "revision")
	cfg.Cluster = func() string { return "one" }
	if err := writeCeiling(cfg.CeilingFile, 1<<40, "another", 0o755); err != nil {
		t.Fatal(err)
	}
	r := start(t, cfg)
	last := mustCreate(t, r.durable, "/registry/pods/a", "x")
	r.stop()
	if last > 100 {
		t.Errorf("a new cluster begins at %d", last)
	}
	for _, path := range []string{cfg.CeilingFile, filepath.Join(cfg.Dir, ceilingFile)} {
		if got, of, err := readCeiling(path); got != last || of != "one" || err != nil {
			t.Errorf("%s: %d of %q, %v; want %d of one", path, got, of, err, last)
		}
	}
	if next := mustCreate(t, start(t, cfg).durable, "/registry/pods/b", "x"); next != last+1 {
		t.Errorf("revision %d after a clean restart, %d before", next, last)
	}
}

// Garbled copies are no numbers.
func TestReadCeiling(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "revision")
	if err := writeCeiling(path, 123456, "abc", 0o755); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range len(good) - 1 {
		for bit := range 8 {
			bad := append([]byte{}, good...)
			bad[at] ^= 1 << bit
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if value, cluster, err := readCeiling(path); err == nil {
				t.Errorf("%q is read as %d of %s", bad, value, cluster)
			}
		}
	}
}

// A reservation is written before it is used, and seldom.
func TestCeilingIsWrittenAhead(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	c := newCeiling(cfg, new(logBuffer).logger())
	written, before := 0, int64(-1)
	for head := int64(0); head < 3*ceilingStep; head += 100 {
		if err := c.allow(head); err != nil {
			t.Fatal(err)
		}
		value, found := c.load()
		if !found || value < head+ceilingAhead {
			t.Fatalf("at %d: %d is written, %v", head, value, found)
		}
		if value != before {
			written++
		}
		before = value
	}
	if written > 7 {
		t.Errorf("written %d times for %d revisions", written, 3*ceilingStep)
	}
	blocked := filepath.Join(cfg.Dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.inside = filepath.Join(blocked, "x")
	if err := c.allow(c.upTo.Load() - ceilingStep/3); err != nil {
		t.Errorf("with revisions left: %v", err)
	}
	if err := c.allow(c.upTo.Load()); err == nil {
		t.Error("revisions were handed out that nothing remembers")
	}
}

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
