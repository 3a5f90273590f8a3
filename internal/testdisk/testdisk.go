// Package testdisk mounts file systems of a test's own: small ones to fill,
// read-only ones, overlays. Only tests import it.
package testdisk

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"brink/internal/testneed"
)

// unmountPatience is long past what a child process needs from fork to exec.
const unmountPatience = 30 * time.Second

// Mount mounts a file system on a directory of the test's own and returns it.
// fstype, flags and options are those of mount(2).
func Mount(t testing.TB, fstype string, flags uintptr, options string) string {
	t.Helper()
	dir := t.TempDir()
	MountAt(t, dir, fstype, flags, options)
	return dir
}

// MountAt mounts on dir, which is created, until the test ends.
func MountAt(t testing.TB, dir, fstype string, flags uintptr, options string) {
	t.Helper()
	testneed.Root(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(fstype, dir, fstype, flags, options); err != nil {
		t.Fatalf("mounting %s on %s: %v", fstype, dir, err)
	}
	t.Cleanup(func() { unmount(t, dir) })
}

// unmount tries again while the file system is busy: a parallel test that
// starts a program has our open files in its child until that calls exec.
func unmount(t testing.TB, dir string) {
	deadline := time.Now().Add(unmountPatience)
	for {
		err := syscall.Unmount(dir, 0)
		if err == nil {
			return
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			t.Errorf("unmounting %s: %v", dir, err)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
