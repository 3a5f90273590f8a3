package payload

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/layout"
	"brink/internal/removetree"
)

// tempPrefix begins the name of a directory that is being filled.
const tempPrefix = layout.Unpacking

// removeLeftovers removes what a crash during an earlier Unpack has left.
func removeLeftovers(root string) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return
	}
	for _, e := range entries {
		if isUnfinished(e) {
			removeOrWarn(filepath.Join(root, e.Name()), removetree.All)
		}
	}
}

// prune removes versions other than current from which no process runs and with which no
// pod was started. One that cannot be removed costs only space, so that is only logged.
func prune(root, current string, states []string) {
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
			used = versionsInUse(root, states)
		}
		if !used[e.Name()] {
			removeOrWarn(filepath.Join(root, e.Name()), removeVersion)
		}
	}
}

// versionsInUse returns the names of root's subdirectories that are needed.
func versionsInUse(root string, states []string) map[string]bool {
	// In the kernel's links all symbolic links in root are resolved.
	roots := []string{root}
	if real, err := filepath.EvalSymlinks(root); err == nil {
		roots = append(roots, real)
	}
	used := map[string]bool{}
	for _, program := range append(running(), shims(states)...) {
		for _, root := range roots {
			if rest, ok := strings.CutPrefix(program, root+"/"); ok {
				version, _, _ := strings.Cut(rest, "/")
				used[version] = true
			}
		}
	}
	return used
}

// running lists the programs of all processes. One that was replaced or deleted
// since has " (deleted)" at the end of its path.
func running() []string {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil
	}
	var out []string
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil {
			out = append(out, exe)
		}
	}
	return out
}

// shims lists the shims that pods were started with, which containerd (v2.3.7)
// writes down in the bundle of every container.
func shims(states []string) []string {
	var out []string
	for _, state := range states {
		files, err := filepath.Glob(filepath.Join(state, "io.containerd.runtime.v2.task", "*", "*", "shim-binary-path"))
		if err != nil {
			continue
		}
		for _, file := range files {
			if path, err := os.ReadFile(file); err == nil {
				out = append(out, string(path))
			}
		}
	}
	return out
}

// removeOrWarn removes a directory, or logs why it cannot be removed.
func removeOrWarn(path string, remove func(string) error) {
	if err := remove(path); err != nil {
		slog.Warn("cannot remove an old version of the embedded programs", "component", "payload", "dir", path, "error", err)
		return
	}
	slog.Debug("removed an old version of the embedded programs", "component", "payload", "dir", path)
}
