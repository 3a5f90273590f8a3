package testdisk

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"brink/internal/testneed"
)

// ext4Shutdown is EXT4_IOC_SHUTDOWN, shutdownNoLogFlush its argument by which not
// even the journal in memory reaches the disk (linux/fs/ext4/ext4.h).
const (
	ext4Shutdown       = 0x8004587d
	shutdownNoLogFlush = uint32(2)
)

// Disk is an ext4 file system on a loop device, of which a test can cut the power.
type Disk struct {
	// Dir is where it is mounted.
	Dir   string
	image string
}

// NewDisk makes and mounts a disk of that many bytes until the test ends.
func NewDisk(t testing.TB, size int64) *Disk {
	t.Helper()
	testneed.Root(t)
	d := &Disk{Dir: t.TempDir(), image: filepath.Join(t.TempDir(), "disk")}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", d.image)
	d.mount(t)
	t.Cleanup(func() { unmount(t, d.Dir) })
	return d
}

func (d *Disk) mount(t testing.TB) {
	t.Helper()
	run(t, "mount", "-o", "loop", d.image, d.Dir)
}

// CutPower makes every further write fail, and what was not synced is gone after
// PowerOn. Programs that run on the disk must be ended before that.
func (d *Disk) CutPower(t testing.TB) {
	t.Helper()
	CutPower(t, d.Dir)
}

// CutPower is that of a Disk for any ext4 file system, by a directory on it.
func CutPower(t testing.TB, path string) {
	t.Helper()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	how := shutdownNoLogFlush
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, dir.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&how))); errno != 0 {
		t.Fatalf("cutting the power of %s: %v", path, errno)
	}
}

// PowerOn mounts the disk again as it was when the power was cut. It mounts a copy: a
// mount namespace that somebody else on this machine has made meanwhile, such as that
// of another test's node, still holds the file system that was shut down.
func (d *Disk) PowerOn(t testing.TB) {
	t.Helper()
	unmount(t, d.Dir)
	after := d.image + "+"
	run(t, "cp", "--sparse=always", d.image, after)
	d.image = after
	d.mount(t)
}

func run(t testing.TB, program string, args ...string) {
	t.Helper()
	if text, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, text)
	}
}
