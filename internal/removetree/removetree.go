// Package removetree removes directories with what is in them. It is the only
// place in brink that does: os.RemoveAll goes through mounts, and whatever a user
// has mounted below one of brink's directories would be emptied.
//
//   - It stays on one file system and one mount. Device and mount id are compared
//     at every step, on the directory that is held open, not read from a table
//     before: what is mounted meanwhile is seen too.
//   - It follows no link, and names are looked up in directories that are held
//     open, so that whoever exchanges one for a link leads it nowhere.
//   - It says what it left and why. One thing that cannot be removed does not
//     keep the others from being removed.
//
// Given up: openat2(2) with RESOLVE_NO_XDEV, which kernels before 5.6 lack and some
// containers forbid.
package removetree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Verdict says what becomes of a file or directory.
type Verdict int

const (
	// Keep leaves it, with all that is in it.
	Keep Verdict = iota
	// Enter judges what is in a directory, and removes it when nothing is left. A
	// file, or a link, of this name is kept.
	Enter
	// Remove removes it with all that is in it. Links are removed, not followed.
	Remove
)

// Why something was kept.
const (
	NotListed = "not brink's"
	IsLink    = "a link"
)

// Kept is what Sift left.
type Kept struct {
	Path string
	Why  string // NotListed, or IsLink with where it leads
}

// MountedError says that something is mounted at a path.
type MountedError struct{ Path string }

// Error names the way out.
func (e *MountedError) Error() string {
	return fmt.Sprintf("%s was not removed because something is mounted on it: unmount it and try again", e.Path)
}

// All removes path and all below it; of a link, the link. A path that is not there
// is no error. Links in the directories above it are followed, so these are the
// caller's to trust.
func All(path string) error {
	path = filepath.Clean(path)
	fd, err := open(unix.AT_FDCWD, filepath.Dir(path), 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(path), Err: err}
	}
	defer unix.Close(fd)
	s := &sifter{root: filepath.Dir(path)}
	here, err := placeOf(fd)
	if err != nil {
		return &os.PathError{Op: "statx", Path: s.root, Err: err}
	}
	s.remove(fd, here, filepath.Base(path))
	return errors.Join(s.errs...)
}

// Sift judges everything in the directory root, which itself stays. Paths that are
// judged are relative to it; what is in a directory is judged only where that one
// is entered. A root that is not there is no error, one that is a link is.
func Sift(root string, judge func(path string) Verdict) ([]Kept, error) {
	s := &sifter{root: filepath.Clean(root), judge: judge}
	fd, err := open(unix.AT_FDCWD, s.root, unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: s.root, Err: err}
	}
	defer unix.Close(fd)
	here, err := placeOf(fd)
	if err != nil {
		return nil, &os.PathError{Op: "statx", Path: s.root, Err: err}
	}
	s.sift(fd, here, "")
	slices.SortFunc(s.kept, func(a, b Kept) int { return strings.Compare(a.Path, b.Path) })
	return s.kept, errors.Join(s.errs...)
}

// place is where a directory lies.
type place struct{ device, mount uint64 }

// sifter is one call of All or Sift.
type sifter struct {
	root  string
	judge func(path string) Verdict
	kept  []Kept
	errs  []error
}

// sift judges what is in the directory fd, which lies here.
func (s *sifter) sift(fd int, here place, dir string) {
	for _, name := range s.names(fd, dir) {
		path := filepath.Join(dir, name)
		switch s.judge(path) {
		case Keep:
			s.keep(path, NotListed)
		case Enter:
			s.enter(fd, here, path)
		case Remove:
			s.remove(fd, here, path)
		}
	}
}

// enter sifts a directory and removes it when it is empty then.
func (s *sifter) enter(parent int, here place, path string) {
	name := filepath.Base(path)
	fd, err := open(parent, name, unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		s.keep(path, whatElse(parent, name))
		return
	case err != nil:
		s.failed("open", path, err)
		return
	}
	defer unix.Close(fd)
	if !s.isHere(fd, here, path) {
		return
	}
	s.sift(fd, here, path)
	err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		s.failed("remove", path, err)
	}
}

// remove removes a name of the directory parent, whatever it is.
func (s *sifter) remove(parent int, here place, path string) {
	name := filepath.Base(path)
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return
	}
	fd, openErr := open(parent, name, unix.O_NOFOLLOW)
	if openErr != nil {
		// No directory: then what unlinking says is what is wrong.
		s.failed("remove", path, err)
		return
	}
	defer unix.Close(fd)
	if !s.isHere(fd, here, path) {
		return
	}
	for _, below := range s.names(fd, path) {
		s.remove(fd, here, filepath.Join(path, below))
	}
	err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	// What stayed in it has been told.
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		s.failed("remove", path, err)
	}
}

// isHere tells whether a directory lies on the file system and the mount of the one
// that it was found in.
func (s *sifter) isHere(fd int, here place, path string) bool {
	got, err := placeOf(fd)
	if err != nil {
		s.failed("statx", path, err)
		return false
	}
	if got != here {
		s.errs = append(s.errs, &MountedError{filepath.Join(s.root, path)})
		return false
	}
	return true
}

func (s *sifter) names(fd int, path string) []string {
	// A descriptor of its own: closing the file closes it.
	again, err := open(fd, ".", 0)
	if err != nil {
		s.failed("open", path, err)
		return nil
	}
	f := os.NewFile(uintptr(again), path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		s.failed("read", path, err)
	}
	return names
}

func (s *sifter) keep(path, why string) {
	s.kept = append(s.kept, Kept{filepath.Join(s.root, path), why})
}

func (s *sifter) failed(op, path string, err error) {
	path = filepath.Join(s.root, path)
	if errors.Is(err, unix.EBUSY) {
		s.errs = append(s.errs, &MountedError{path})
		return
	}
	s.errs = append(s.errs, &os.PathError{Op: op, Path: path, Err: err})
}

// whatElse says what a name is that is not the directory it should be.
func whatElse(parent int, name string) string {
	target := make([]byte, unix.PathMax)
	if n, err := unix.Readlinkat(parent, name, target); err == nil {
		return IsLink + " to " + string(target[:n])
	}
	return NotListed
}

func open(at int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK|flags, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// placeOf asks the kernel. Kernels before 5.8 tell the mount's id in /proc only.
func placeOf(fd int) (place, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return place{}, err
	}
	out := place{device: uint64(st.Dev)}
	var stx unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stx)
	if err == nil && stx.Mask&unix.STATX_MNT_ID != 0 {
		out.mount = stx.Mnt_id
		return out, nil
	}
	out.mount, err = mountInProc(fd)
	return out, err
}

// mountInProc reads the line "mnt_id:" of proc_pid_fdinfo(5), since Linux 3.15.
func mountInProc(fd int) (uint64, error) {
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.ParseUint(strings.TrimSpace(id), 10, 64)
		}
	}
	return 0, errors.New("the kernel does not tell on which mount a directory lies")
}
