package removetree

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brink/internal/testdisk"
	"brink/internal/testtree"
)

// listing is everything below root, sorted, links with where they lead.
func listing(t *testing.T, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if target, err := os.Readlink(path); err == nil {
			name += "->" + target
		}
		out = append(out, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAll(t *testing.T) {
	t.Parallel()
	root := testtree.Make(t, map[string]string{
		"gone/a/b/c": "", "gone/empty/": "", "gone/out": "->../kept", "gone/up": "->..", "gone/loop": "->loop",
		"kept/photo.jpg": "x", "link": "->kept", "file": "",
	})
	if err := unix.Mkfifo(filepath.Join(root, "gone", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gone", "link", "file", "never/was", "never"} {
		if err := All(filepath.Join(root, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := listing(t, root); !slices.Equal(got, []string{"kept", "kept/photo.jpg"}) {
		t.Errorf("left %q", got)
	}
}

func TestSift(t *testing.T) {
	t.Parallel()
	root := testtree.Make(t, map[string]string{
		"agent/containerd/x": "", "agent/recordings/1.wav": "", "agent/pki": "->../elsewhere", "agent/cni": "no directory",
		"elsewhere/key": "", "server/db/state.db": "", "server/db/copy.db": "", "lock": "",
	})
	verdicts := map[string]Verdict{
		"agent": Enter, "agent/containerd": Remove, "agent/pki": Enter, "agent/cni": Enter, "agent/never": Remove,
		"server": Enter, "server/db": Enter, "server/db/state.db": Remove, "lock": Remove,
	}
	kept, err := Contents(root, func(path string) Verdict { return verdicts[path] })
	if err != nil {
		t.Fatal(err)
	}
	want := []Kept{
		{"agent/cni", NotListed}, {"agent/pki", "a link to ../elsewhere"}, {"agent/recordings", NotListed},
		{"elsewhere", NotListed}, {"server/db/copy.db", NotListed},
	}
	for i := range want {
		want[i].Path = filepath.Join(root, want[i].Path)
	}
	if !slices.Equal(kept, want) {
		t.Errorf("kept %q, want %q", kept, want)
	}
	left := []string{"agent", "agent/cni", "agent/pki->../elsewhere", "agent/recordings", "agent/recordings/1.wav", "elsewhere", "elsewhere/key", "server", "server/db", "server/db/copy.db"}
	if got := listing(t, root); !slices.Equal(got, left) {
		t.Errorf("left %q, want %q", got, left)
	}
}

func TestSiftOfNothing(t *testing.T) {
	t.Parallel()
	root := testtree.Make(t, map[string]string{"link": "->dir", "dir/x": ""})
	never := func(path string) Verdict { t.Errorf("judges %s", path); return Remove }
	if kept, err := Contents(filepath.Join(root, "none"), never); err != nil || len(kept) > 0 {
		t.Errorf("not there: %v, %v", kept, err)
	}
	if _, err := Contents(filepath.Join(root, "link"), never); err == nil {
		t.Error("a link as root was followed")
	}
}

// TestMountsStay has another file system, and a directory bound from the same one:
// the second is on the same device.
func TestMountsStay(t *testing.T) {
	t.Parallel()
	root := testdisk.Mount(t, "tmpfs", 0, "")
	testtree.Fill(t, root, map[string]string{"gone/a/other/": "", "gone/b/bound/": "", "gone/c/file": "", "gone/d": "", "photos/1.jpg": "photo"})
	for _, m := range []struct{ source, target, kind string }{
		{"tmpfs", "gone/a/other", "tmpfs"},
		{filepath.Join(root, "photos"), "gone/b/bound", ""},
		{filepath.Join(root, "photos/1.jpg"), "gone/c/file", ""},
	} {
		target, flags := filepath.Join(root, m.target), uintptr(0)
		if m.kind == "" {
			flags = unix.MS_BIND
		}
		if err := unix.Mount(m.source, target, m.kind, flags, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	testtree.Fill(t, root, map[string]string{"gone/a/other/2.jpg": "photo"})
	for name, remove := range map[string]func() error{
		"all": func() error { return All(filepath.Join(root, "gone")) },
		"sift": func() error {
			_, err := Contents(root, func(path string) Verdict {
				return map[bool]Verdict{true: Remove, false: Keep}[strings.HasPrefix(path, "gone")]
			})
			return err
		},
		"mount itself": func() error {
			return errors.Join(All(filepath.Join(root, "gone/a/other")), All(filepath.Join(root, "gone/b/bound")), All(filepath.Join(root, "gone/c/file")))
		},
	} {
		err := remove()
		for _, path := range []string{"gone/a/other", "gone/b/bound", "gone/c/file"} {
			if err == nil || !strings.Contains(err.Error(), filepath.Join(root, path)+" was not removed because something is mounted on it") {
				t.Errorf("%s: %s is not named in %v", name, path, err)
			}
		}
		if _, ok := errors.AsType[*MountedError](err); !ok {
			t.Errorf("%s: %v is no MountedError", name, err)
		}
	}
	want := []string{"gone", "gone/a", "gone/a/other", "gone/a/other/2.jpg", "gone/b", "gone/b/bound", "gone/b/bound/1.jpg", "gone/c", "gone/c/file", "photos", "photos/1.jpg"}
	if got := listing(t, root); !slices.Equal(got, want) {
		t.Errorf("left %q, want %q", got, want)
	}
}

// TestExchangedForALink: somebody swaps a directory for a link to the user's while
// it is being removed. Nothing of the user's may go, whichever moment it hits.
func TestExchangedForALink(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	precious := filepath.Join(root, "precious")
	testtree.Fill(t, precious, map[string]string{"a/x": "", "b/x": "", "c/x": "", "x": ""})
	before := listing(t, precious)
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		testtree.Fill(t, root, map[string]string{"gone/a/x": "", "gone/b/x": "", "gone/c/x": ""})
		var swapping sync.WaitGroup
		for _, name := range []string{"a", "b", "c"} {
			swapping.Go(func() {
				dir := filepath.Join(root, "gone", name)
				if os.Rename(dir, filepath.Join(root, "aside-"+name)) == nil {
					_ = os.Symlink(precious, dir)
				}
			})
		}
		_ = All(filepath.Join(root, "gone"))
		swapping.Wait()
		for _, name := range []string{"gone", "aside-a", "aside-b", "aside-c"} {
			if err := All(filepath.Join(root, name)); err != nil {
				t.Fatal(err)
			}
		}
		if got := listing(t, precious); !slices.Equal(got, before) {
			t.Fatalf("of %q only %q is left", before, got)
		}
	}
}

// TestMountInProc: what old kernels tell is the same.
func TestMountInProc(t *testing.T) {
	t.Parallel()
	fd, err := open(unix.AT_FDCWD, t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	want, err := filesystemOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := mountInProc(fd); err != nil || got != want.mount {
		t.Errorf("got %d (%v), want %d", got, err, want.mount)
	}
}
