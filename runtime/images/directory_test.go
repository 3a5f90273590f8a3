package images

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"brink/internal/layout"
)

func TestArchivesIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, file := range []string{"b.tar", "a.tar.gz", "c.tgz", "d.tar.zst", "e.tzst", "with space.tar", "tar", "notes.txt", "f.tar.part", "g.TAR"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "unpacked.tar"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Archives are often links to another disk.
	if err := os.Symlink("/media/usb/images", filepath.Join(dir, "z.tar")); err != nil {
		t.Fatal(err)
	}
	got, err := archivesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, file := range []string{"a.tar.gz", "b.tar", "c.tgz", "d.tar.zst", "e.tzst", "with space.tar", "z.tar"} {
		want = append(want, filepath.Join(dir, file))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestArchivesInNoDirectory(t *testing.T) {
	t.Parallel()
	if got, err := archivesIn(filepath.Join(t.TempDir(), "missing")); err != nil || len(got) > 0 {
		t.Errorf("a missing directory: %q, %v, want none", got, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := archivesIn(file); err == nil {
		t.Error("a file is taken for an empty directory")
	}
}

// TestImportDirWithoutArchives: nothing to import needs no containerd.
func TestImportDirWithoutArchives(t *testing.T) {
	t.Parallel()
	a := Store{Layout: layout.At(t.TempDir(), t.TempDir())}
	if err := a.ImportDir(t.Context(), filepath.Join(t.TempDir(), "images")); err != nil {
		t.Error(err)
	}
}
