package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"brink/internal/layout"
	"brink/internal/removetree"
)

// OverlayUsable mounts an overlay with its layers in dir, which is created when it does
// not exist, and unmounts it again. The error says why that fails.
func OverlayUsable(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	probe, err := os.MkdirTemp(dir, layout.OverlayProbe)
	if err != nil {
		return err
	}
	defer func() { _ = removetree.All(probe) }() // what stays is a directory by the name of a probe
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(probe, name), 0o700); err != nil {
			return err
		}
	}
	merged := filepath.Join(probe, "merged")
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", probe)
	if err := syscall.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return fmt.Errorf("mounting an overlay on %s: %w", dir, err)
	}
	defer func() {
		// A busy one is detached: a program that another goroutine starts has the probe
		// open until its exec.
		unmountErr := syscall.Unmount(merged, 0)
		if errors.Is(unmountErr, syscall.EBUSY) {
			unmountErr = syscall.Unmount(merged, syscall.MNT_DETACH)
		}
		if err == nil && unmountErr != nil {
			err = fmt.Errorf("unmounting an overlay from %s: %w", dir, unmountErr)
		}
	}()
	// Some file systems accept the mount and refuse the first write.
	return os.WriteFile(filepath.Join(merged, "probe"), nil, 0o600)
}
