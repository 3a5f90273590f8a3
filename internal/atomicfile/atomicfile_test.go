package atomicfile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"brink/internal/testdisk"
)

// onlyFiles fails unless dir holds exactly the named files: a temporary one
// that stays behind is a leak.
func onlyFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("directory holds %q, want %q", got, want)
	}
}

func contains(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %.40q (%v), want %.40q", filepath.Base(path), got, err, want)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	for _, perm := range []fs.FileMode{0o600, 0o644, 0o666, 0o777, 0o400} {
		t.Run(perm.String(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			for _, content := range []string{"first, and longer", "second", ""} {
				if err := Write(path, []byte(content), perm); err != nil {
					t.Fatal(err)
				}
				contains(t, path, content)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			// Also what a umask would take away, and not what CreateTemp gives.
			if info.Mode().Perm() != perm {
				t.Errorf("permission is %s, want %s", info.Mode().Perm(), perm)
			}
			onlyFiles(t, dir, "file")
		})
	}
}

// TestWriteNarrowsPermission replaces a file that anyone can read.
func TestWriteNarrowsPermission(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("permission is %v (%v), want 0600", info.Mode(), err)
	}
}

func TestFailureLeavesOldContent(t *testing.T) {
	t.Parallel()
	errProduce := errors.New("producer broke")
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := WriteWith(path, 0o600, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half of the n"); err != nil {
			return err
		}
		return errProduce
	})
	if !errors.Is(err, errProduce) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want the producer's error with the file's name", err)
	}
	contains(t, path, "old")
	onlyFiles(t, dir, "file")
}

func TestFailureToReplace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.MkdirAll(filepath.Join(path, "by a directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("new"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	onlyFiles(t, dir, "taken")
}

func TestNoDirectory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing", "file")
	err := Write(path, []byte("x"), 0o600)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want a missing directory with the file's name", err)
	}
}

// TestFullDisk runs on a file system of its own with room for one copy, not
// for two: what is there must survive a write that does not fit.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := testdisk.Mount(t, "tmpfs", 0, "size=64k")
	path := filepath.Join(dir, "file")
	old := strings.Repeat("old ", 10<<10)
	if err := Write(path, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Write(path, bytes.Repeat([]byte("new "), 10<<10), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want no space left", err)
	}
	contains(t, path, old)
	onlyFiles(t, dir, "file")
	if err := Write(path, []byte("small"), 0o600); err != nil {
		t.Errorf("the failed write has left the disk full: %v", err)
	}
}

// TestReadersSeeWholeFiles has readers open the file again and again while two
// writers replace it by contents of different lengths.
func TestReadersSeeWholeFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	versions := []string{strings.Repeat("a", 100), strings.Repeat("b", 300<<10)}
	if err := Write(path, []byte(versions[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for _, content := range versions {
		writers.Go(func() {
			for range 50 {
				if err := Write(path, []byte(content), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 4 {
		readers.Go(func() { readUntil(t, done, path, versions) })
	}
	writers.Wait()
	close(done)
	readers.Wait()
	onlyFiles(t, filepath.Dir(path), "file")
}

func readUntil(t *testing.T, done <-chan struct{}, path string, versions []string) {
	for {
		select {
		case <-done:
			return
		default:
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != versions[0] && string(got) != versions[1] {
			t.Errorf("read %d bytes (%v) that nobody has written", len(got), err)
			return
		}
	}
}

// TestClean has a write break off as by a kill: half of it is on disk.
func TestClean(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	err := WriteWith(path, 0o600, func(io.Writer) error {
		left, err := filepath.Glob(filepath.Join(dir, ".*"))
		if err != nil || len(left) != 1 {
			t.Fatalf("temporary files %q, %v", left, err)
		}
		return os.Link(left[0], left[0]+"1")
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".other.12", ".state.db", ".state.db.", ".state.db.12x", ".state.db.new.12", "state.db.12"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Clean(dir, "state.db", "missing"); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, dir, ".other.12", ".state.db", ".state.db.", ".state.db.12x", ".state.db.new.12", "state.db", "state.db.12")
	if err := Clean(filepath.Join(dir, "none"), "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want a missing directory", err)
	}
}

func TestSyncDirNeedsOne(t *testing.T) {
	t.Parallel()
	if err := SyncDir(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := SyncDir(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want a missing directory", err)
	}
}

// TestReadTakesFilesOnly: a link leads anywhere, and a FIFO never ends.
func TestReadTakesFilesOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(path("file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	made := errors.Join(os.Mkdir(path("dir"), 0o700), syscall.Mkfifo(path("fifo"), 0o600),
		os.Symlink("file", path("link")), os.Symlink("fifo", path("to-fifo")), os.Symlink("to-itself", path("to-itself")))
	if made != nil {
		t.Fatal(made)
	}
	head := func(path string) ([]byte, error) { return ReadHead(path, 3) }
	for name, want := range map[string][3]string{ // by Read, ReadTarget and ReadHead
		"file": {"content", "content", "con"}, "link": {"", "content", ""},
		"dir": {}, "fifo": {}, "to-fifo": {}, "to-itself": {}, "missing": {},
	} {
		for i, read := range []func(string) ([]byte, error){Read, ReadTarget, head} {
			got, err := read(path(name))
			if string(got) != want[i] || (err == nil) != (want[i] != "") || err != nil && !strings.Contains(err.Error(), path(name)) {
				t.Errorf("%s, way %d: got %q, %v, want %q", name, i, got, err, want[i])
			}
			if name == "missing" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("missing, way %d: got %v", i, err)
			}
		}
	}
}

// TestKeep: what is wanted already is not written again, which a changed inode
// would show; anything else is put right.
func TestKeep(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "made", "here", "file")
	keep := func(data string, perm os.FileMode) os.FileInfo {
		t.Helper()
		if err := Keep(path, []byte(data), perm); err != nil {
			t.Fatal(err)
		}
		has, err := os.ReadFile(path)
		if err != nil || string(has) != data {
			t.Fatalf("has %q, %v, want %q", has, err, data)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != perm {
			t.Fatalf("has %v, %v, want %v", info.Mode(), err, perm)
		}
		return info
	}
	first := keep("data", 0o600)
	if !os.SameFile(first, keep("data", 0o600)) {
		t.Error("an equal file was written again")
	}
	if os.SameFile(first, keep("Data", 0o600)) {
		t.Error("other content was written in place")
	}
	keep("Data", 0o644)
	keep("Data", 0o600)
	if err := Keep(filepath.Join(path, "below"), nil, 0o600); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file where the directory should be: %v", err)
	}
}

func TestCheckPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, isGood := range map[string]bool{
		filepath.Join(dir, "a"):           true,
		filepath.Join(dir, "b", "c", "a"): true,
		filepath.Join(dir, "file", "a"):   false,
		"/proc/a":                         false,
		"/proc/b/a":                       false,
	} {
		err := CheckPlace(path)
		if (err == nil) != isGood {
			t.Errorf("%s: %v", path, err)
		}
		if err != nil && (!strings.HasPrefix(err.Error(), path+" cannot be written: ") || strings.Contains(err.Error(), "*")) {
			t.Errorf("%s: the error is %q", path, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("it left %v, %v", entries, err)
	}
}
