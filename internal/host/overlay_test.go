package host

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/testdisk"
)

func TestOverlayUsable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(testdisk.Mount(t, "tmpfs", 0, ""), "new")
	if err := OverlayUsable(dir); err != nil {
		t.Error(err)
	}
	requireEmpty(t, dir)
}

// An overlay cannot be the upper layer of another: the usual reason why it does
// not work, a data directory inside of a container.
func TestOverlayNotUsable(t *testing.T) {
	t.Parallel()
	base := testdisk.Mount(t, "tmpfs", 0, "")
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := testdisk.Mount(t, "overlay", 0, "lowerdir="+base+"/lower,upperdir="+base+"/upper,workdir="+base+"/work")
	err := OverlayUsable(dir)
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error is %v", err)
	}
	requireEmpty(t, dir)
	if c := checkOverlay(dir, dir); c.Result != Warn {
		t.Errorf("the check is %s: %s", c.Result, c)
	}
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left in %s: %v %v", dir, entries, err)
	}
}
