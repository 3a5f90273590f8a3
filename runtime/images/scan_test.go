package images

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// tree is a directory of files in a test.
type tree struct {
	t   *testing.T
	dir string
}

func (f tree) put(name string, age time.Duration) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	when := time.Now().Add(-age)
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Chtimes(path, when, when); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func (f tree) scan(before map[string]stamp) (entries, map[string]stamp) {
	f.t.Helper()
	out, seen, err := scan(f.dir, before, time.Now())
	if err != nil {
		f.t.Fatal(err)
	}
	return out, seen
}

func (e entries) has(path string) bool {
	return slices.ContainsFunc(e.files, func(f found) bool { return f.path == path })
}

func TestScan(t *testing.T) {
	t.Parallel()
	f := tree{t, t.TempDir()}
	var want []string
	for _, file := range []string{"a.tar.gz", "b.tar", "c.tgz", "d.tar.zst", "e.tzst", "f.tar.xz", "g.tar.bz2", "h.tar.lz4", "list.txt", "with space.tar"} {
		want = append(want, f.put(file, time.Minute))
	}
	for _, file := range []string{"tar", "x.tar.part", "x.TAR", "app.img", ".hidden.tar.a8f3", "README"} {
		f.put(file, time.Minute)
	}
	// Archives are often links to another disk.
	if err := os.Symlink(want[0], filepath.Join(f.dir, "z.tar")); err != nil {
		t.Fatal(err)
	}
	want = append(want, filepath.Join(f.dir, "z.tar"))
	away := filepath.Join(f.dir, "y.tar")
	if err := os.Symlink("/media/usb/y.tar", away); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(f.dir, "unpacked.tar"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(f.dir, "pipe.tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, _ := f.scan(nil)
	for _, path := range want {
		if !got.has(path) {
			t.Errorf("%s is not taken: %v", path, got)
		}
	}
	if len(got.files) != len(want) {
		t.Errorf("%d files are taken, want %d: %v", len(got.files), len(want), got.files)
	}
	for name, why := range map[string]string{
		"tar": "its name", "x.tar.part": "its name", "x.TAR": "its name", "app.img": "its name",
		"unpacked.tar": "it is a directory", "pipe.tar": "it is not a file", "y.tar": "it is a link to a file that is not there",
	} {
		if got := got.unknown[filepath.Join(f.dir, name)]; !strings.HasPrefix(got, why) {
			t.Errorf("%s: %q, want %q", name, got, why)
		}
	}
	if len(got.unknown) != 7 || !slices.Contains(got.paths(), away) {
		t.Errorf("unknown are %v, all paths %v", got.unknown, got.paths())
	}
}

func TestScanOfNoDirectory(t *testing.T) {
	t.Parallel()
	if got, _, err := scan(filepath.Join(t.TempDir(), "missing"), nil, time.Now()); err != nil || len(got.paths()) > 0 {
		t.Errorf("a missing directory: %v, %v, want nothing", got, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := scan(file, nil, time.Now()); err == nil {
		t.Error("a file is taken for an empty directory")
	}
}

// TestScanOfALinkToNothing: the disk that a link in the directory's place leads to may be
// away for a while. That its images are not there does not count as removed.
func TestScanOfALinkToNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "images")
	if err := os.Symlink("/media/usb/images", dir); err != nil {
		t.Fatal(err)
	}
	d := NewDirectory(Store{}, dir, nil)
	d.record.stamps[filepath.Join(dir, "app.tar")] = stamp{Size: 1}
	there := d.look(t.Context())
	if gone := d.removed(there); len(gone) > 0 {
		t.Errorf("%v counts as removed", gone)
	}
	if why := there.unknown[dir]; !strings.Contains(why, "is a link to what is not there") {
		t.Errorf("the warning is %q", why)
	}
}

// TestFileIsTakenWhenWhole: not while somebody has it open to write, however old it is,
// and not when it has just changed.
func TestFileIsTakenWhenWhole(t *testing.T) {
	t.Parallel()
	f := tree{t, t.TempDir()}
	fresh, future := f.put("fresh.tar", 0), f.put("future.tar", -time.Hour)
	open := f.put("open.tar", time.Hour)
	writer, err := os.OpenFile(open, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	first, seen := f.scan(nil)
	if len(first.files) != 0 || len(first.writing) != 3 {
		t.Errorf("taken at once: %v", first.files)
	}
	second, seen := f.scan(seen)
	if !second.has(fresh) || !second.has(future) || second.has(open) {
		t.Errorf("taken when unchanged: %v", second.files)
	}
	writer.Close()
	if third, _ := f.scan(seen); !third.has(open) {
		t.Errorf("taken when closed: %v", third.files)
	}
}

func TestReadList(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "list.txt")
	text := "# images of the shop\n\nbusybox\n  registry.test/app:1  \nregistry.test/App:1\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	names, unusable, err := readList(path)
	if err != nil || !slices.Equal(names, []string{"docker.io/library/busybox:latest", "registry.test/app:1"}) {
		t.Errorf("got %q, %v", names, err)
	}
	if len(unusable) != 1 || !strings.HasPrefix(unusable[0], "line 5:") {
		t.Errorf("unusable are %q", unusable)
	}
}
