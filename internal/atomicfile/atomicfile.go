// Package atomicfile writes files that must survive a power cut, and reads files that
// anybody may have put there. It is the only place in brink that writes by the sequence
// write, fsync, rename, fsync the directory: a reader sees the old content or the new one,
// never a part of either.
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Write replaces path by data with permission perm. The parent directory must exist. On
// error no temporary file is left and path has its old content, with one exception: if
// only syncing the directory fails, because the disk does, path has the new content
// already and a power cut may bring the old one back. A process that dies while it writes
// leaves a temporary file, for Clean.
func Write(path string, data []byte, perm os.FileMode) error {
	return WriteWith(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Read reads a regular file. It follows no link and never waits: in the file's place there
// may be a FIFO, from which nothing ever comes. The error of anything else names it.
func Read(path string) ([]byte, error) { return readAll(path, syscall.O_NOFOLLOW) }

// ReadTarget is Read for a file that may be a link.
func ReadTarget(path string) ([]byte, error) { return readAll(path, 0) }

func readAll(path string, flags int) ([]byte, error) {
	f, err := open(path, flags)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// ReadHead is Read for at most the first bytes of a file.
func ReadHead(path string, most int64) ([]byte, error) {
	f, err := open(path, syscall.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// open opens a regular file for reading.
func open(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|flags, 0)
	if errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) {
		return nil, fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// CheckPlace returns an error if a file that does not exist yet could not be written at path.
// It tries with a temporary file, which it removes. Where path's directory does not exist
// either, it tries in the nearest one above that does.
func CheckPlace(path string) error {
	dir := filepath.Dir(path)
	for {
		_, err := os.Stat(dir)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	tmp, err := os.CreateTemp(dir, temporary(filepath.Base(path))+"*")
	if err != nil {
		return fmt.Errorf("%s cannot be written: %w", path, unwrapPath(err))
	}
	tmp.Close()
	return os.Remove(tmp.Name())
}

// unwrapPath leaves the name of a temporary file out of an error.
func unwrapPath(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// Keep makes sure that path holds data with permission perm, and creates its directory if
// needed. A file that does so already is not written: that costs a flash card nothing.
func Keep(path string, data []byte, perm os.FileMode) error {
	if holds(path, data, perm) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return Write(path, data, perm)
}

func holds(path string, data []byte, perm os.FileMode) bool {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != perm {
		return false
	}
	has, err := os.ReadFile(path)
	return err == nil && bytes.Equal(has, data)
}

// WriteWith is Write for content that is produced piece by piece.
func WriteWith(path string, perm os.FileMode, produce func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, temporary(filepath.Base(path))+"*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	if err = tmp.Chmod(perm); err != nil {
		return err
	}
	if err = produce(tmp); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// temporary returns how the names of temporary files of name begin. Digits follow.
func temporary(name string) string { return "." + name + "." }

// Clean removes temporary files of the named files in dir, which a process that died while
// writing has left. Nobody may be writing these files meanwhile. Other files stay.
func Clean(dir string, names ...string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if !slices.ContainsFunc(names, func(name string) bool { return isTemporary(entry.Name(), name) }) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func isTemporary(file, name string) bool {
	digits, ok := strings.CutPrefix(file, temporary(name))
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// SyncDir makes renames, creations and removals in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
