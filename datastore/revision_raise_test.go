package datastore

import (
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

// waysBack is every way in which state goes back. Each leaves the files of a server that is
// down, and returns the highest revision that was acknowledged.
var waysBack = map[string]func(t *testing.T, cfg *Config) int64{
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
}

func TestRevisionsNeverComeTwice(t *testing.T) {
	t.Parallel()
	for name, prepare := range waysBack {
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
