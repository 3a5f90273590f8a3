package upgrade

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"brink/internal/layout"
)

// Hold keeps other upgrades of a machine out until it is closed. The zero Hold holds nothing
// yet. It locks directories, so that it leaves no file.
type Hold struct{ dirs []*os.File }

// take takes a machine's brink for a new upgrade.
func (h *Hold) take(l layout.Layout, binary string) error {
	if err := h.lock(l, binary); err != nil {
		return err
	}
	return notUnderWay(l) // one that has begun before the lock was taken
}

// lock takes a data directory, and the directory of a binary that brinks with other data
// directories may share.
func (h *Hold) lock(l layout.Layout, binary string) error {
	// Not MkdirAll: where brink keeps nothing, nothing is made.
	if err := os.Mkdir(l.Upgrade(), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("preparing an upgrade: %w", err)
	}
	for _, path := range []string{l.Upgrade(), filepath.Dir(binary)} {
		dir, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("preparing an upgrade: %w", err)
		}
		h.dirs = append(h.dirs, dir)
		err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) { // other errors are of file systems without locks
			return fmt.Errorf("another brink upgrade is at work in %s: wait for its end", path)
		}
	}
	return nil
}

// Close lets others go on. It may be called again.
func (h *Hold) Close() {
	for _, dir := range h.dirs {
		dir.Close()
	}
	h.dirs = nil
}
