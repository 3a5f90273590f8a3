// Package sysctl reads and writes kernel settings, as sysctl(8) does. A key is a path
// below /proc/sys, such as net/ipv4/ip_forward.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const root = "/proc/sys"

// Path is the file of a setting.
func Path(key string) string { return filepath.Join(root, key) }

// Exists reports whether the kernel has a setting.
func Exists(key string) bool {
	_, err := os.Stat(Path(key))
	return err == nil
}

// Get returns a setting's value without the newline at its end.
func Get(key string) (string, error) {
	data, err := os.ReadFile(Path(key))
	return strings.TrimSpace(string(data)), err
}

// Set writes a setting that has another value, and logs the change.
func Set(log *slog.Logger, key, want string) error {
	has, err := Get(key)
	if err != nil {
		return fmt.Errorf("reading kernel setting: %w", err)
	}
	if has == want {
		return nil
	}
	name := strings.ReplaceAll(key, "/", ".")
	if err := os.WriteFile(Path(key), []byte(want), 0o644); err != nil {
		if errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("kernel setting %s is %s, must be %s, and cannot be written here (%w): set it outside this container, sysctl -w %s=%s",
				name, has, want, errors.Unwrap(err), name, want)
		}
		return fmt.Errorf("changing kernel setting %s from %s to %s: %w", name, has, want, err)
	}
	log.Info("kernel setting changed", "setting", name, "was", has, "now", want)
	return nil
}
