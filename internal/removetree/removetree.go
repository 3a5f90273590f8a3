// Package removetree removes directories with their content. It is the only place in brink
// that does: os.RemoveAll goes through mounts, and would empty what a user has mounted
// below one of brink's directories.
//
//   - It stays on one file system and one mount. Device and mount id are compared at every
//     step, on the open directory, and not read from a table beforehand: what is mounted
//     meanwhile is noticed too.
//   - It follows no link, and looks names up in open directories, so that exchanging a
//     directory for a link leads it nowhere.
//   - It reports what it left and why. One thing that cannot be removed does not keep the
//     others from being removed.
//
// Rejected: openat2(2) with RESOLVE_NO_XDEV, which kernels before 5.6 lack and some
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
	// Keep leaves it, with everything in it.
	Keep Verdict = iota
	// Enter judges the content of a directory, and removes the directory when nothing is
	// left. A file or a link of this name is kept.
	Enter
	// Remove removes it with everything in it. Links are removed, not followed.
	Remove
)

// Why something was kept.
const (
	NotListed = "not brink's"
	IsLink    = "a link"
)

// Kept is something that Contents left.
type Kept struct {
	Path string
	Why  string // NotListed, or IsLink with where it leads
}

// MountedError says that something is mounted at a path.
type MountedError struct{ Path string }

// Error also says what to do.
func (e *MountedError) Error() string {
	return fmt.Sprintf("%s was not removed because something is mounted on it: unmount it and try again", e.Path)
}

// All removes path and everything below it; if it is a link, the link. A missing path is no
// error. Links in the directories above it are followed, so the caller must trust these.
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
	r := &removal{root: filepath.Dir(path)}
	here, err := filesystemOf(fd)
	if err != nil {
		return &os.PathError{Op: "statx", Path: r.root, Err: err}
	}
	r.remove(fd, here, filepath.Base(path))
	return errors.Join(r.errs...)
}

// Contents removes from the directory root what judge says, and keeps root itself. The paths
// that judge gets are relative to root. The content of a directory is judged only if the
// directory is entered. A missing root is no error, but a link in its place is.
func Contents(root string, judge func(path string) Verdict) ([]Kept, error) {
	r := &removal{root: filepath.Clean(root), judge: judge}
	fd, err := open(unix.AT_FDCWD, r.root, unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: r.root, Err: err}
	}
	defer unix.Close(fd)
	here, err := filesystemOf(fd)
	if err != nil {
		return nil, &os.PathError{Op: "statx", Path: r.root, Err: err}
	}
	r.contents(fd, here, "")
	slices.SortFunc(r.kept, func(a, b Kept) int { return strings.Compare(a.Path, b.Path) })
	return r.kept, errors.Join(r.errs...)
}

// filesystem is the device and the mount that a directory is on.
type filesystem struct{ device, mount uint64 }

// removal is one call of All or Contents.
type removal struct {
	root  string
	judge func(path string) Verdict
	kept  []Kept
	errs  []error
}

// contents judges the content of the directory fd, which is on the file system here.
func (r *removal) contents(fd int, here filesystem, dir string) {
	for _, name := range r.names(fd, dir) {
		path := filepath.Join(dir, name)
		switch r.judge(path) {
		case Keep:
			r.keep(path, NotListed)
		case Enter:
			r.enter(fd, here, path)
		case Remove:
			r.remove(fd, here, path)
		}
	}
}

// enter sifts a directory, and removes it if it is empty then.
func (r *removal) enter(parent int, here filesystem, path string) {
	name := filepath.Base(path)
	fd, err := open(parent, name, unix.O_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		r.keep(path, whatElse(parent, name))
		return
	case err != nil:
		r.failed("open", path, err)
		return
	}
	defer unix.Close(fd)
	if !r.isHere(fd, here, path) {
		return
	}
	r.contents(fd, here, path)
	err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		r.failed("remove", path, err)
	}
}

// remove removes a name in the directory parent, whatever it is.
func (r *removal) remove(parent int, here filesystem, path string) {
	name := filepath.Base(path)
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return
	}
	fd, openErr := open(parent, name, unix.O_NOFOLLOW)
	if openErr != nil {
		// It is no directory, so the first error says what is wrong.
		r.failed("remove", path, err)
		return
	}
	defer unix.Close(fd)
	if !r.isHere(fd, here, path) {
		return
	}
	for _, below := range r.names(fd, path) {
		r.remove(fd, here, filepath.Join(path, below))
	}
	err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
	// What was left in it has been reported.
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		r.failed("remove", path, err)
	}
}

// isHere reports whether a directory is on the same device and mount as the directory that
// it was found in.
func (r *removal) isHere(fd int, here filesystem, path string) bool {
	got, err := filesystemOf(fd)
	if err != nil {
		r.failed("statx", path, err)
		return false
	}
	if got != here {
		r.errs = append(r.errs, &MountedError{filepath.Join(r.root, path)})
		return false
	}
	return true
}

func (r *removal) names(fd int, path string) []string {
	// The file gets a descriptor of its own, because closing the file closes that.
	again, err := open(fd, ".", 0)
	if err != nil {
		r.failed("open", path, err)
		return nil
	}
	f := os.NewFile(uintptr(again), path)
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		r.failed("read", path, err)
	}
	return names
}

func (r *removal) keep(path, why string) {
	r.kept = append(r.kept, Kept{filepath.Join(r.root, path), why})
}

func (r *removal) failed(op, path string, err error) {
	path = filepath.Join(r.root, path)
	if errors.Is(err, unix.EBUSY) {
		r.errs = append(r.errs, &MountedError{path})
		return
	}
	r.errs = append(r.errs, &os.PathError{Op: op, Path: path, Err: err})
}

// whatElse says what a name is in place of a directory.
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

// filesystemOf asks the kernel. Before 5.8 it gives the id of a mount only in /proc.
func filesystemOf(fd int) (filesystem, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return filesystem{}, err
	}
	out := filesystem{device: uint64(st.Dev)}
	var stx unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stx)
	if err == nil && stx.Mask&unix.STATX_MNT_ID != 0 {
		out.mount = stx.Mnt_id
		return out, nil
	}
	out.mount, err = mountInProc(fd)
	return out, err
}

// mountInProc reads the line "mnt_id:" of proc_pid_fdinfo(5), there since Linux 3.15.
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
