package datastore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

const (
	// spaceNeeded is how many bytes must be free at a start. Less would be used up within
	// the first minute.
	spaceNeeded = 4 << 20
)

// writtenFiles are replaced as a whole, in whichever directory they are: a
// write that broke off leaves a temporary file.
var writtenFiles = []string{volatileFile, revisionFile, inUseFile, leasesFile, ceilingFile}

// prepareDir makes dir, removes what interrupted writes have left in it, and returns
// an error if files cannot be made there.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unusable(dir, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return unusable(dir, err)
	}
	if err := atomicfile.Clean(dir, writtenFiles...); err != nil {
		return unusable(dir, err)
	}
	probe, err := openProbe(dir)
	if err != nil {
		return unusable(dir, err)
	}
	return probe.Close()
}

// openProbe opens a new file that has no name already: a process that dies
// leaves none behind.
func openProbe(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, layout.WriteProbe+"*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// unusable names the cause that the user can do something about.
func unusable(path string, err error) error {
	hint := "check its owner and permissions"
	switch {
	case errors.Is(err, syscall.EROFS):
		hint = "the file system is read-only: remount it, and check the kernel log for the cause"
	case classify(err) == faultFull:
		hint = "the disk is full: free some space"
	case errors.Is(err, syscall.ENOTDIR):
		hint = "a file is in the way"
	case errors.Is(err, syscall.EIO):
		hint = "the disk fails: check the kernel log"
	}
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return fmt.Errorf("datastore directory %s cannot be written (%w): %s", path, err, hint)
}

// requireSpace reserves blocks without writing to them, then gives them back.
func requireSpace(dir string) error {
	f, err := openProbe(dir)
	if err != nil {
		return unusable(dir, err)
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), 0, 0, spaceNeeded)
	if classify(err) == faultFull {
		return fmt.Errorf("datastore directory %s: the disk is full (less than %d MiB left): free some space and start again", dir, spaceNeeded>>20)
	}
	return nil // other file systems cannot reserve; they will tell when written
}
