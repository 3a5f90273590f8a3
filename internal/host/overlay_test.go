package host

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// mount mounts a file system of the test's own.
func mount(t *testing.T, kind, flags, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	var bits uintptr
	if flags == "ro" {
		bits = syscall.MS_RDONLY
	}
	if err := syscall.Mount(kind, dir, kind, bits, options); err != nil {
		t.Skipf("needs to mount %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestOverlayUsable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(mount(t, "tmpfs", "", ""), "new")
	if err := OverlayUsable(dir); err != nil {
		t.Error(err)
	}
	requireEmpty(t, dir)
}

// An overlay cannot be the upper layer of another: the usual reason why it does
// not work, a data directory inside of a container.
func TestOverlayNotUsable(t *testing.T) {
	t.Parallel()
	base := mount(t, "tmpfs", "", "")
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := mount(t, "overlay", "", "lowerdir="+base+"/lower,upperdir="+base+"/upper,workdir="+base+"/work")
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
