package datastore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"brink/internal/testdisk"
	"brink/internal/testerror"
	"brink/internal/testneed"
	"brink/internal/testwait"
)

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
	testerror.OneLine(t, r.Health(), r.database(), "disk full")
	if n := r.log.count("disk full at"); n != 1 {
		t.Errorf("told %d times, want once", n)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "writes work again by themselves", func() bool { return r.Health() == nil })
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
	testneed.Root(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop,errors=remount-ro", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mounting an image: %v: %s", err, out)
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
	if out, err := exec.Command(testneed.Program(t, "mkfs.ext4"), "-q", "-F", image).CombinedOutput(); err != nil {
		t.Fatalf("making a file system: %v: %s", err, out)
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
		t.Fatalf("making a file system fail: %v", err)
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
	testerror.OneLine(t, r.Health(), r.database(), "cannot write", "check the disk")
	if n := r.log.count("cannot write " + r.database()); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	r.stop()
	if after := contents(t, cfg.Dir); after[databaseFile] != before[databaseFile] || after[databaseFile+"-wal"] != before[databaseFile+"-wal"] {
		t.Error("the database was touched")
	}
	_, err := prepared(cfg)
	testerror.OneLine(t, err, cfg.Dir, "read-only")

	// A child that another test has just forked may have our files open.
	testwait.Until(t, "the disk is not in use", func() bool { return syscall.Unmount(disk, 0) == nil })
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
