package datastore

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"brink/internal/testdisk"
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

			_, err := New(cfg)
			expectOneLine(t, err, path, "damaged", "--datastore-set-aside-damaged")
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
	_, err := New(cfg)
	expectOneLine(t, err, path, "damaged")
	cfg.SetAsideDamaged = true
	if _, err := New(cfg); err != nil {
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

			_, err := New(cfg)
			expectOneLine(t, err, path, "missing", databaseFile+suffix, "--datastore-set-aside-damaged")
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

// What writes that broke off have left goes at the next start, and nothing else.
func TestLeftoversGo(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	start(t, cfg).stop()
	want := contents(t, cfg.Dir)
	for dir, names := range map[string][]string{
		cfg.Dir:       {".volatile.snapshot.123", ".volatile.revision.4", ".state.db.in-use.56"},
		cfg.SocketDir: {".leases.copy.7"},
	} {
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := New(cfg); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, cfg.Dir); !maps.Equal(got, want) {
		t.Errorf("in the directory: %v, want %v", got, want)
	}
	if left := contents(t, cfg.SocketDir); left[".leases.copy.7"] != "" {
		t.Errorf("in the socket directory: %v", left)
	}
}

func TestDamageFoundWhileRunning(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	path := filled(t, cfg)
	store, err := New(cfg)
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
	expectOneLine(t, r.Health(), path, "damaged")
	if n := log.count("is damaged"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func TestUnusableDirectory(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir string)
		want    string
	}{
		"read-only file system": {func(t *testing.T, dir string) { testdisk.MountAt(t, dir, "tmpfs", syscall.MS_RDONLY, "size=8m") }, "read-only"},
		"file in the way": {func(t *testing.T, dir string) {
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "in the way"},
		"full disk": {func(t *testing.T, dir string) { testdisk.MountAt(t, dir, "tmpfs", 0, "size=1m") }, "disk is full"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			c.prepare(t, cfg.Dir)
			_, err := New(cfg)
			expectOneLine(t, err, cfg.Dir, c.want)
		})
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	testdisk.MountAt(t, cfg.Dir, "tmpfs", 0, "size=12m")
	r := start(t, cfg)
	rev := mustCreate(t, r.durable, "/kept", "before")
	ballast := filepath.Join(cfg.Dir, "ballast")
	fillDisk(t, ballast)

	ctx := testContext(t)
	last := rev
	var err error
	for err == nil { // until the WAL cannot grow
		var next int64
		if next, err = update(ctx, r.durable, "/kept", strings.Repeat("y", 100_000), last); err == nil {
			last = next
		}
	}
	if rpctypes.Error(err) != rpctypes.ErrNoSpace {
		t.Fatalf("update on a full disk: %v, want %v", err, rpctypes.ErrNoSpace)
	}
	if _, err := create(ctx, r.durable, "/more", strings.Repeat("y", 100_000)); rpctypes.Error(err) != rpctypes.ErrNoSpace {
		t.Errorf("create on a full disk: %v", err)
	}
	resp, err := r.durable.Get(ctx, "/kept")
	if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != last {
		t.Errorf("reading on a full disk: %v, %v; want revision %d", resp, err, last)
	}
	expectOneLine(t, r.Health(), r.database(), "disk full")
	if n := r.log.count("disk full at"); n != 1 {
		t.Errorf("told %d times, want once", n)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "writes work again by themselves", func() bool { return r.Health() == nil })
	if n := r.log.count("writes work again"); n != 1 {
		t.Errorf("recovery told %d times, want once", n)
	}
	mustUpdate(t, r.durable, "/kept", "after", last)
	r.stop()
	if err := CheckIntegrity(r.database()); err != nil {
		t.Error(err)
	}
	if got := values(t, start(t, cfg).durable, "/kept"); got["/kept"] != "after" {
		t.Errorf("after a restart: %.20v", got)
	}
}

// mountLoop mounts an ext4 image that turns read-only at an error, as a card
// does that fails, and returns the file in /sys that makes one.
func mountLoop(t *testing.T, image, dir string) (trigger string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop,errors=remount-ro", image, dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount an image here: %v: %s", err, out)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[1] == dir {
			return filepath.Join("/sys/fs/ext4", filepath.Base(fields[0]), "trigger_fs_error")
		}
	}
	t.Fatalf("%s is not mounted", dir)
	return ""
}

func makeImage(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	truncate(t, image, 32<<20)
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", image).CombinedOutput(); err != nil {
		t.Skipf("cannot make a file system here: %v: %s", err, out)
	}
	return image
}

// A file system that turns read-only while the store runs takes no more writes;
// what it has is read on and stays as it is.
func TestDiskTurnsReadOnly(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	image, disk := makeImage(t), cfg.Dir
	cfg.Dir = filepath.Join(disk, "db") // beside lost+found
	trigger := mountLoop(t, image, disk)
	r := start(t, cfg)
	rev := mustCreate(t, r.durable, "/kept", "before")
	if err := os.WriteFile(trigger, []byte("failing on purpose"), 0); err != nil {
		t.Skipf("cannot make a file system fail here: %v", err)
	}
	before := contents(t, cfg.Dir)
	for range 3 {
		if _, err := create(testContext(t), r.durable, "/new", "x"); err == nil || err == errConflict {
			t.Errorf("create on a read-only disk: %v", err)
		}
		if _, err := update(testContext(t), r.durable, "/kept", "x", rev); err == nil || err == errConflict {
			t.Errorf("update on a read-only disk: %v", err)
		}
	}
	if got := values(t, r.durable, "/kept"); got["/kept"] != "before" {
		t.Errorf("read on a read-only disk: %v", got)
	}
	expectOneLine(t, r.Health(), r.database(), "cannot write", "check the disk")
	if n := r.log.count("cannot write " + r.database()); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	r.stop()
	if after := contents(t, cfg.Dir); after[databaseFile] != before[databaseFile] || after[databaseFile+"-wal"] != before[databaseFile+"-wal"] {
		t.Error("the database was touched")
	}
	_, err := New(cfg)
	expectOneLine(t, err, cfg.Dir, "read-only")

	// A child that another test has just forked may have our files open.
	eventually(t, "the disk is not in use", func() bool { return syscall.Unmount(disk, 0) == nil })
	mountLoop(t, image, disk)
	r = start(t, cfg)
	if got := values(t, r.durable, "/"); got["/kept"] != "before" || got["/new"] != "" {
		t.Errorf("after a repair: %v", got)
	}
}

// kine takes a delete that failed for a conflict, and the API server would try
// it again without end.
func TestDeleteOnFullDisk(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	testdisk.MountAt(t, cfg.Dir, "tmpfs", 0, "size=12m")
	r := start(t, cfg)
	ctx := testContext(t)
	revs := map[string]int64{}
	for i := range 50 {
		key := fmt.Sprintf("/d/%02d", i)
		revs[key] = mustCreate(t, r.durable, key, strings.Repeat("z", 50_000))
	}
	fillDisk(t, filepath.Join(cfg.Dir, "ballast"))
	refused := false
	for key, rev := range revs {
		_, err := remove(ctx, r.durable, key, rev)
		if err == errConflict {
			t.Fatal("a full disk was reported as a conflict")
		}
		refused = refused || rpctypes.Error(err) == rpctypes.ErrNoSpace
	}
	if !refused {
		t.Error("no delete was refused: the disk was not full")
	}
}

func expectOneLine(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not contain %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q is more than one line", err)
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
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return out
}

// fillDisk leaves no block free.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size >= 4096; size /= 2 {
		for block := make([]byte, size); ; {
			if _, err := f.Write(block); err != nil {
				break
			}
		}
	}
}
