package ledger

import (
	"os"
	"path/filepath"
	"testing"

	"brink/internal/layout"
)

func TestPutFile(t *testing.T) {
	t.Parallel()
	const ours, newer, theirs = "of brink\n", "of a newer brink\n", "of somebody\n"
	for _, c := range []struct {
		name    string
		before  func(t *testing.T, l layout.Layout, path string) // the first start
		want    string
		removed bool
	}{
		{"none is there", func(*testing.T, layout.Layout, string) {}, newer, true},
		{"somebody's is there", func(t *testing.T, _ layout.Layout, path string) { write1(t, path, theirs) }, theirs, false},
		{"an older one of brink's", func(t *testing.T, l layout.Layout, path string) { put(t, l, path, ours) }, newer, true},
		{"the same one of brink's", func(t *testing.T, l layout.Layout, path string) { put(t, l, path, newer) }, newer, true},
		{"one of brink's that somebody has changed", func(t *testing.T, l layout.Layout, path string) {
			put(t, l, path, ours)
			write1(t, path, theirs)
		}, theirs, false},
		{"a link that leads nowhere", func(t *testing.T, _ layout.Layout, path string) {
			if err := os.Symlink("nowhere", path); err != nil {
				t.Fatal(err)
			}
		}, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, path := layout.New(t.TempDir()), filepath.Join(t.TempDir(), "hosts")
			c.before(t, l, path)
			put(t, l, path, newer)
			if text, _ := os.ReadFile(path); string(text) != c.want {
				t.Errorf("it has %q, want %q", text, c.want)
			}
			removed := false
			for _, f := range TextFiles(read(t, l)) {
				one, err := f.Remove()
				if err != nil {
					t.Error(err)
				}
				removed = removed || one
			}
			if _, err := os.Lstat(path); removed != c.removed || removed != (err != nil) {
				t.Errorf("removed is %t, want %t (%v)", removed, c.removed, err)
			}
		})
	}
}

// TestPutFileInNoDirectory: an error, and nothing is made.
func TestPutFileInNoDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "etc")
	if _, err := PutFile(layout.New(t.TempDir()), filepath.Join(dir, "hosts"), "x"); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was made")
	}
}

func put(t *testing.T, l layout.Layout, path, text string) {
	t.Helper()
	if _, err := PutFile(l, path, text); err != nil {
		t.Fatal(err)
	}
}

func write1(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, l layout.Layout) []Entry {
	t.Helper()
	entries, err := Read(l.Made())
	if err != nil {
		t.Fatal(err)
	}
	return entries
}
