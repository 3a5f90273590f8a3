package images

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"brink/internal/testerror"
	"brink/internal/testneed"
)

// part makes a directory as a bundle that was cut short leaves it.
func partDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "shop.tar.part")
	release, err := claimPart(dir)
	if err != nil {
		t.Fatal(err)
	}
	release()
	return dir
}

// TestPartOfAnother: what another user can have put there is not taken, and its links are
// not followed.
func TestPartOfAnother(t *testing.T) {
	t.Parallel()
	testneed.Root(t)
	for name, change := range map[string]func(dir string) error{
		"its owner is another": func(dir string) error { return os.Chown(dir, 12345, 12345) },
		"others may write":     func(dir string) error { return os.Chmod(dir, 0o777) },
		"it is a link": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+".other"), os.Symlink(dir+".other", dir))
		},
		"hosts is a link":   func(dir string) error { return os.Symlink(t.TempDir(), filepath.Join(dir, "hosts")) },
		"content is a link": func(dir string) error { return os.Symlink(t.TempDir(), filepath.Join(dir, "content")) },
	} {
		dir := partDir(t)
		if err := change(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := claimPart(dir); err == nil {
			t.Errorf("%s: it is taken", name)
		} else {
			testerror.OneLine(t, err, "is in the way")
		}
	}
	release, err := claimPart(partDir(t))
	if err != nil {
		t.Fatalf("one's own is refused: %v", err)
	}
	release()
}
