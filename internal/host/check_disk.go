package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// minFree is how many bytes a node with a handful of small images needs.
const minFree = 1 << 30

// Numbers of file systems from linux/magic.h.
const (
	fsTmpfs = 0x01021994
	fsRamfs = 0x858458f6
)

// unsuitable are file systems on which overlayfs, file locks or permissions do
// not work.
var unsuitable = map[int64]string{
	0x6969:     "NFS",
	0xff534d42: "CIFS",
	0xfe534d42: "SMB",
	0x517b:     "SMB",
	0x4d44:     "FAT",
	0x2011bab0: "exFAT",
	0x5346544e: "NTFS",
	0x7366746e: "NTFS",
	0x65735546: "FUSE",
	0x01021997: "9P",
	0x73717368: "squashfs",
	0xe0f5e1e2: "EROFS",
}

// checkDataDir checks the data directory. With withPods it also checks what images and
// containers need.
func (m machine) checkDataDir(dir string, withPods bool) []Check {
	const name = "data directory"
	existing, err := nearest(dir)
	if err != nil {
		return []Check{fail(name, "choose another with --data-dir", "the data directory %s cannot be used (%v)", dir, err)}
	}
	if err := writable(existing); err != nil {
		fix := "make it writable, or choose another with --data-dir"
		return []Check{fail(name, fix, "the data directory %s cannot be written (%v)", dir, err)}
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(existing, &s); err != nil {
		return []Check{fail(name, "choose another with --data-dir", "the data directory %s cannot be used (%v)", dir, err)}
	}
	checks := []Check{
		ok(name, "%s can be written", dir),
		checkFileSystem(dir, filesystem(s), withPods),
		checkSpace(dir, filesystem(s)),
	}
	if withPods {
		checks = append(checks, checkOverlay(dir, existing))
	}
	return checks
}

// filesystem describes the file system of the data directory.
type filesystem syscall.Statfs_t

// kind returns the magic number. Its type differs between architectures, and on 32-bit
// ones numbers from 0x80000000 up are negative.
func (s filesystem) kind() int64 { return int64(uint32(s.Type)) }

func checkFileSystem(dir string, s filesystem, withPods bool) Check {
	const name = "file system"
	if kind, bad := unsuitable[s.kind()]; bad {
		return fail(name, "choose a directory on ext4, xfs, btrfs or f2fs with --data-dir",
			"the data directory %s is on %s, where overlayfs and the databases cannot work", dir, kind)
	}
	const noExec = 0x8 // ST_NOEXEC
	if withPods && s.Flags&noExec != 0 {
		return fail(name, "mount it without noexec, or choose another with --data-dir", "the data directory %s is mounted noexec, containers could not start", dir)
	}
	if kind := s.kind(); kind == fsTmpfs || kind == fsRamfs {
		return warn(name, "choose a directory on a disk with --data-dir", "the data directory %s is in memory, the cluster is lost with the next reboot", dir)
	}
	return ok(name, "%s is on a suitable file system", dir)
}

func checkSpace(dir string, s filesystem) Check {
	const name, fix = "disk space", "free some, or choose another place with --data-dir"
	free := uint64(s.Bavail) * uint64(s.Bsize)
	switch {
	case free < minFree:
		return warn(name, fix, "only %d MiB are free at %s, images will not fit", free>>20, dir)
	case s.Files > 0 && s.Ffree < 20_000: // an image of a Linux distribution
		return warn(name, fix, "only %d inodes are free at %s, images will not fit", s.Ffree, dir)
	}
	return ok(name, "%d MiB are free", free>>20)
}

// checkOverlay tries the mount that will be a container's root. Where the file system
// refuses it, images can be copied instead: bad but possible.
func checkOverlay(dir, existing string) Check {
	const name = "overlay mount"
	if existing != dir {
		return ok(name, "not tried, %s does not exist yet", dir)
	}
	if err := OverlayUsable(dir); err != nil {
		return warn(name, "choose a directory on ext4, xfs or btrfs with --data-dir",
			"overlayfs does not work on %s (%v), images will be copied for each container", dir, errors.Unwrap(err))
	}
	return ok(name, "overlayfs works on %s", dir)
}

// nearest returns dir or the closest directory above it that exists.
func nearest(dir string) (string, error) {
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && !info.IsDir():
			return "", fmt.Errorf("%s is not a directory", dir)
		case err == nil:
			return dir, nil
		case !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir):
			return "", err
		}
		dir = filepath.Dir(dir)
	}
}

// writable asks the kernel, which refuses read-only mounts to root too.
func writable(path string) error {
	const wOK = 2
	return syscall.Access(path, wOK)
}
