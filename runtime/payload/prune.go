package payload

import (
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// tempPrefix starts the name of a directory that is being filled.
const tempPrefix = ".unpack-"

// removeLeftovers deletes what a crash in the middle of an earlier Unpack left.
func removeLeftovers(root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			remove(filepath.Join(root, e.Name()))
		}
	}
}

// prune deletes versions other than current from which no process runs. What
// cannot be deleted costs space and nothing else, so it is only logged.
func prune(root, current string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	var used map[string]bool
	for _, e := range entries {
		if e.Name() == current || !isVersion(e) {
			continue
		}
		if used == nil {
			used = versionsInUse(root)
		}
		if !used[e.Name()] {
			remove(filepath.Join(root, e.Name()))
		}
	}
}

// isVersion tells the directories that Unpack makes from whatever else someone
// may have put beside them.
func isVersion(e os.DirEntry) bool {
	sum, err := hex.DecodeString(e.Name())
	return err == nil && len(sum) == 32 && e.IsDir()
}

// versionsInUse returns the names of root's subdirectories that hold a running
// program. A program that was replaced or deleted while running is found too:
// the kernel only appends " (deleted)" to its path.
func versionsInUse(root string) map[string]bool {
	used := map[string]bool{}
	// The kernel's links have every symbolic link in root resolved.
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real
	}
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return used
	}
	for _, link := range links {
		exe, err := os.Readlink(link)
		if err != nil {
			continue
		}
		if rest, ok := strings.CutPrefix(exe, root+"/"); ok {
			version, _, _ := strings.Cut(rest, "/")
			used[version] = true
		}
	}
	return used
}

func remove(path string) {
	if err := os.RemoveAll(path); err != nil {
		slog.Warn("cannot remove an old version of the embedded programs", "component", "payload", "dir", path, "error", err)
		return
	}
	slog.Debug("removed an old version of the embedded programs", "component", "payload", "dir", path)
}
