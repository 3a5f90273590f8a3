package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// archiveSuffixes are those of OCI and docker archives. How they are compressed is
// recognized by content.
var archiveSuffixes = []string{
	".tar", ".oci", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz", ".tbz2", ".tar.lz4", ".tlz4", ".tar.lz",
}

// listSuffix is that of a file with names of images, one a line, which are pulled.
const listSuffix = ".txt"

// settleTime is how long a file must stay as it is before it is taken.
const settleTime = 2 * time.Second

// found is a file of the directory.
type found struct {
	path  string
	stamp stamp
	list  bool // of names, not an archive
}

// entries are what a directory holds.
type entries struct {
	files   []found           // that are whole
	writing []string          // that are not, or may not be
	absent  []string          // to which a link leads, as to a disk that is not mounted
	unknown map[string]string // why a name is passed over
	failed  bool              // the directory could not be read
}

// paths are those of all files that count, whole or not, there or not: the images of a
// file that is just away stay.
func (e entries) paths() []string {
	out := append(slices.Clone(e.writing), e.absent...)
	for _, f := range e.files {
		out = append(out, f.path)
	}
	return out
}

// scan reads the directory. Names that begin with a dot are those of files that rsync and
// others rename when they are whole, and a README may lie there. before are the stamps of the last look.
func scan(dir string, before map[string]stamp, now time.Time) (entries, map[string]stamp, error) {
	out, seen := entries{unknown: map[string]string{}}, map[string]stamp{}
	all, err := os.ReadDir(dir) // sorted
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir); err == nil {
			return out, seen, fmt.Errorf("%s is a link to what is not there, such as a disk that is not mounted: its images stay", dir)
		}
		return out, seen, nil
	}
	if err != nil {
		return out, seen, err
	}
	for _, e := range all {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") || strings.HasPrefix(e.Name(), "README") {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			out.absent = append(out.absent, path)
		}
		if why := whyNot(e.Name(), info, err); why != "" {
			out.unknown[path] = why
			continue
		}
		f := found{path, stampOf(info), strings.HasSuffix(e.Name(), listSuffix)}
		seen[path] = f.stamp
		if last, ok := before[path]; (ok && last.same(f.stamp) || isOld(info, now)) && !isWritten(path) {
			out.files = append(out.files, f)
		} else {
			out.writing = append(out.writing, path)
		}
	}
	return out, seen, nil
}

// whyNot returns why a file is passed over, or "".
func whyNot(name string, info fs.FileInfo, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "it is a link to a file that is not there"
	case err != nil:
		return err.Error()
	case info.IsDir():
		return "it is a directory: only archives are read, pack it by tar"
	case !info.Mode().IsRegular():
		return "it is not a file"
	case strings.HasSuffix(name, listSuffix):
		return ""
	}
	for _, suffix := range archiveSuffixes {
		if strings.HasSuffix(name, suffix) {
			return ""
		}
	}
	return "its name is not that of an image archive: " + strings.Join(archiveSuffixes, " ") + ", or " + listSuffix + " for a list of names"
}

// isOld reports whether a file was last changed long enough ago to be whole. A time in the
// future, as on a board without a clock, says nothing.
func isOld(info fs.FileInfo, now time.Time) bool {
	age := now.Sub(info.ModTime())
	return age >= settleTime
}

// isWritten reports whether somebody has the file open to write to it, however long the
// writer pauses: the kernel refuses a lease for reading then. Where it has no leases, as
// on a network's file system, the time alone decides.
func isWritten(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer f.Close() // gives the lease back
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	return errors.Is(err, unix.EAGAIN)
}
