package datastore

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"brink/internal/testerror"
)

// A copy of a database that is written to has every write that was acknowledged before, and
// the writers are not kept waiting.
func TestBackupWhileWriting(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	for i := range 500 {
		mustCreate(t, r.durable, fmt.Sprintf("/registry/pods/before-%d", i), `{"x":"`+string(make([]byte, 0, 10))+`"}`)
	}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var slowest time.Duration
	writers.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			begun := time.Now()
			mustCreate(t, r.durable, fmt.Sprintf("/registry/pods/during-%d", i), "{}")
			slowest = max(slowest, time.Since(begun))
		}
	})
	before := mustCreate(t, r.durable, "/registry/pods/last-before", "{}")
	var copies []Copied
	for i := range 5 {
		c, err := Backup(t.Context(), cfg.Dir, filepath.Join(t.TempDir(), fmt.Sprint(i)), true)
		if err != nil || c.Damage != nil {
			t.Fatal(err, c.Damage)
		}
		copies = append(copies, c)
	}
	stop()
	writers.Wait()
	if copies[0].Revision < before || copies[4].Revision <= copies[0].Revision {
		t.Errorf("revisions of the copies are %v, a write before them was %d", copies, before)
	}
	t.Logf("the slowest write took %v", slowest)
}

// backedUp returns a stopped store's configuration and a copy of it that has count objects.
func backedUp(t *testing.T, count int) (cfg Config, path string, last int64) {
	t.Helper()
	cfg = testConfig(t)
	cfg.Cluster = func() string { return "one" }
	cfg.CeilingFile = filepath.Join(t.TempDir(), "revision")
	r := start(t, cfg)
	for i := range count {
		last = mustCreate(t, r.durable, fmt.Sprintf("/registry/pods/a-%d", i), "{}")
	}
	r.stop()
	path = filepath.Join(t.TempDir(), "copy")
	c, err := Backup(t.Context(), cfg.Dir, path, false)
	if err != nil || c.Damage != nil || c.Revision != last {
		t.Fatalf("got %+v (%v), want revision %d", c, err, last)
	}
	return cfg, path, last
}

func TestBackupIsOneFile(t *testing.T) {
	t.Parallel()
	_, path, last := backedUp(t, 3)
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Fatalf("beside the copy there is %v (%v)", entries, err)
	}
	if info, err := entries[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
	if c, err := CheckCopy(t.Context(), path); err != nil || c.Damage != nil || c.Revision != last {
		t.Errorf("looked at again it is %+v (%v)", c, err)
	}
}

// What an unclean end left in the WAL is in the copy, and stays as it is in the original.
func TestBackupAfterAnUncleanEnd(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	r := start(t, cfg)
	last := mustCreate(t, r.durable, "/registry/pods/a", "{}")
	crashed := filepath.Join(t.TempDir(), "crashed")
	copyDir(t, cfg.Dir, crashed)
	r.stop()
	wal := filepath.Join(crashed, databaseFile+"-wal")
	before, err := os.ReadFile(wal)
	if err != nil || len(before) == 0 {
		t.Fatalf("the copy of a running database has a WAL of %d bytes (%v)", len(before), err)
	}
	if head, err := LastRevision(crashed); err != nil || head != last {
		t.Errorf("last revision %d (%v), want %d", head, err, last)
	}
	c, err := Backup(t.Context(), crashed, filepath.Join(t.TempDir(), "copy"), false)
	if err != nil || c.Damage != nil || c.Revision != last {
		t.Errorf("got %+v (%v), want revision %d", c, err, last)
	}
	if after, err := os.ReadFile(wal); err != nil || string(after) != string(before) {
		t.Errorf("the WAL has changed (%v)", err)
	}
}

// A restored copy goes on above everything, also where the other copy of the ceiling is lost
// with the machine.
func TestPrepareRestored(t *testing.T) {
	t.Parallel()
	cfg, path, last := backedUp(t, 3)
	fresh := testConfig(t)
	fresh.Cluster = cfg.Cluster
	if err := os.MkdirAll(fresh.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(fresh.Dir, databaseFile), data, 0o600)
	}
	if err == nil {
		err = PrepareRestored(fresh.Dir, Copied{Revision: last}, "one")
	}
	if err != nil {
		t.Fatal(err)
	}
	const handedOutSince = 1 << 20
	r := start(t, fresh)
	mustBeAbove(t, r.durable, last+handedOutSince)
	if got, err := r.durable.Get(t.Context(), "/registry/pods/a-", clientv3.WithPrefix(), clientv3.WithCountOnly()); err != nil || got.Count != 3 {
		t.Errorf("%d objects (%v), want 3", got.Count, err)
	}
}

func TestBackupOfDamage(t *testing.T) {
	t.Parallel()
	cfg, _, _ := backedUp(t, 3)
	db, err := sql.Open("sqlite3", writerDSN(filepath.Join(cfg.Dir, databaseFile), "rw"))
	if err == nil {
		_, err = db.Exec(`UPDATE kine SET value = CAST('{"rotten":1}' AS BLOB) WHERE name = '/registry/pods/a-1'`)
	}
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	c, err := Backup(t.Context(), cfg.Dir, filepath.Join(t.TempDir(), "copy"), false)
	if err != nil {
		t.Fatal(err)
	}
	testerror.OneLine(t, c.Damage, "/registry/pods/a-1")
}

func TestBackupRefuses(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	to := filepath.Join(t.TempDir(), "copy")
	_, err := Backup(t.Context(), empty, to, false)
	testerror.OneLine(t, err, "there is no SQLite database in "+empty)
	cfg, _, _ := backedUp(t, 1)
	if err := os.Symlink(filepath.Join(t.TempDir(), "elsewhere"), to); err != nil {
		t.Fatal(err)
	}
	if _, err := Backup(t.Context(), cfg.Dir, to, false); err == nil {
		t.Error("a link was followed")
	}
	if _, err := os.Lstat(to); err != nil {
		t.Error("the link is gone")
	}
	garbage := t.TempDir()
	if err := os.WriteFile(filepath.Join(garbage, databaseFile), []byte("photos, photos, photos"), 0o600); err != nil {
		t.Fatal(err)
	}
	to = filepath.Join(t.TempDir(), "copy")
	_, err = Backup(t.Context(), garbage, to, false)
	testerror.OneLine(t, err, garbage)
	if _, left := os.Lstat(to); !IsDamaged(err) || !os.IsNotExist(left) {
		t.Errorf("damaged %v, left of the copy: %v", IsDamaged(err), left)
	}
}
