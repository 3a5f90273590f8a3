package datastore

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"brink/internal/testerror"
	"brink/internal/testtree"
)

// filled makes a database with some content and returns its path.
func filled(t *testing.T, cfg Config) string {
	t.Helper()
	r := start(t, cfg)
	for i := range 200 {
		mustCreate(t, r.durable, fmt.Sprintf("/registry/configmaps/default/cm-%03d", i), strings.Repeat("data ", 200))
	}
	r.stop()
	return r.database()
}

func TestDamagedDatabase(t *testing.T) {
	t.Parallel()
	const page = 4096
	for name, damage := range map[string]func(t *testing.T, path string){
		"pages in the middle": func(t *testing.T, path string) {
			overwrite(t, path, 10*page, strings.Repeat("x", 20*page))
		},
		"header":        func(t *testing.T, path string) { overwrite(t, path, 0, strings.Repeat("\x00", 100)) },
		"truncated":     func(t *testing.T, path string) { truncate(t, path, 20*page+100) },
		"header cut":    func(t *testing.T, path string) { truncate(t, path, 10) },
		"empty":         func(t *testing.T, path string) { truncate(t, path, 0) },
		"another table": func(t *testing.T, path string) { replaceBySQLite(t, path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			path := filled(t, cfg)
			damage(t, path)
			before := contents(t, cfg.Dir)

			_, err := prepared(cfg)
			testerror.OneLine(t, err, path, "damaged", "--datastore-set-aside-damaged")
			if after := contents(t, cfg.Dir); after[databaseFile] != before[databaseFile] || after[databaseFile+"-wal"] != before[databaseFile+"-wal"] {
				t.Error("the damaged database was touched")
			}
			if err := CheckIntegrity(path); err == nil {
				t.Error("CheckIntegrity finds nothing")
			}

			cfg.SetAsideDamaged = true
			r := start(t, cfg)
			mustCreate(t, r.durable, "/new", "x")
			if got := values(t, r.durable, "/registry/configmaps/"); len(got) != 0 {
				t.Errorf("%d old keys in the new database", len(got))
			}
			kept, _ := filepath.Glob(path + ".damaged-*Z")
			if len(kept) != 1 || contents(t, cfg.Dir)[filepath.Base(kept[0])] != before[databaseFile] {
				t.Errorf("kept aside: %v", kept)
			}
			r.stop()
			if again := start(t, cfg); len(values(t, again.durable, "/new")) != 1 {
				t.Error("a sound database was set aside")
			}
		})
	}
}

// After kill -9 the writes are in the WAL: it must be kept with its database.
func TestDamagedAfterKillKeepsWAL(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	filled(t, cfg)
	killChild(t, cfg, "k", 100)
	path := filepath.Join(cfg.Dir, databaseFile)
	overwrite(t, path, 0, "not a database at all")
	before := contents(t, cfg.Dir)
	if before[databaseFile+"-wal"] == "" {
		t.Fatal("there is no WAL to keep")
	}
	_, err := prepared(cfg)
	testerror.OneLine(t, err, path, "damaged")
	cfg.SetAsideDamaged = true
	if _, err := prepared(cfg); err != nil {
		t.Fatal(err)
	}
	kept, _ := filepath.Glob(path + ".damaged-*Z-wal")
	if len(kept) != 1 || contents(t, cfg.Dir)[filepath.Base(kept[0])] != before[databaseFile+"-wal"] {
		t.Errorf("WAL kept aside: %v", kept)
	}
}

// A database that vanished must not pass for a new cluster, and what is left of
// it is not ours to delete.
func TestMissingDatabase(t *testing.T) {
	t.Parallel()
	for _, suffix := range []string{"-wal", "-shm", inUseSuffix} {
		t.Run(suffix, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			path := filled(t, cfg)
			if err := os.Rename(path, path+suffix); err != nil {
				t.Fatal(err)
			}
			before := contents(t, cfg.Dir)

			_, err := prepared(cfg)
			testerror.OneLine(t, err, path, "missing", databaseFile+suffix, "--datastore-set-aside-damaged")
			if after := contents(t, cfg.Dir); !maps.Equal(after, before) {
				t.Errorf("refusing changed the files: %v, before %v", after, before)
			}

			cfg.SetAsideDamaged = true
			start(t, cfg).stop()
			kept, _ := filepath.Glob(path + ".damaged-*Z" + suffix)
			if len(kept) != 1 || contents(t, cfg.Dir)[filepath.Base(kept[0])] != before[databaseFile+suffix] {
				t.Errorf("kept aside: %v", kept)
			}
			cfg.SetAsideDamaged = false
			start(t, cfg)
		})
	}
}

func TestMissingDatabaseInFreshDirectory(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} { // of a first start that broke off
		if err := os.WriteFile(filepath.Join(cfg.Dir, newFile+suffix), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustCreate(t, start(t, cfg).durable, "/new", "x")
}

func TestDamageFoundWhileRunning(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	path := filled(t, cfg)
	store, err := prepared(cfg)
	if err != nil {
		t.Fatal(err)
	}
	log := new(logBuffer)
	store.disk.log = slog.New(slog.NewTextHandler(log, nil))
	overwrite(t, path, 10*4096, strings.Repeat("x", 40*4096))
	r := startStore(t, store, log)
	_, err = r.durable.Get(testContext(t), "/registry/configmaps/", prefixRange("/registry/configmaps/"))
	if rpctypes.Error(err) != rpctypes.ErrCorrupt {
		t.Errorf("list over damaged pages: %v, want %v; a part of the list must not pass for all", err, rpctypes.ErrCorrupt)
	}
	testerror.OneLine(t, r.Health(), path, "damaged")
	if n := log.count("is damaged"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func overwrite(t *testing.T, path string, at int64, data string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() < at+int64(len(data)) {
		t.Fatalf("%s is too small for this damage: %v", path, err)
	}
	if _, err := f.WriteAt([]byte(data), at); err != nil {
		t.Fatal(err)
	}
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

func replaceBySQLite(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := execAll(dsn(path, "rwc"), `CREATE TABLE notes (text)`); err != nil {
		t.Fatal(err)
	}
}

// contents returns the hashes of the files in dir.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := testtree.Read(t, dir)
	for name, data := range files {
		files[name] = fmt.Sprintf("%x", sha256.Sum256([]byte(data)))
	}
	return files
}
