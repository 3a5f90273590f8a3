// Package ledger keeps the list of what brink makes on a machine outside of its
// own directories, or has upstream make there. It is written before the thing is
// made, so that after a crash in between nothing of ours is missing in it, and
// package uninstall removes what it names and no more. What was there before
// brink is not in it and stays.
package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// Entry is a line of the file layout.Made, "kind path". The file survives
// restarts, for the second start finds things there and makes none.
type Entry struct{ Kind, Path string }

// Kinds of entries.
const (
	Cgroup     = "cgroup"     // a control group that was not there before
	PodsIn     = "pods"       // where pods' groups are, whoever made it
	Dir        = "dir"        // a directory that was not there before
	Kubeconfig = "kubeconfig" // the administrator's
)

// Places that upstream has no option to move.
const (
	KubeletDir       = "/var/lib/kubelet"
	DevicePlugins    = KubeletDir + "/device-plugins"
	ContainerLogsDir = "/var/log/containers"
	CNIDir           = "/var/lib/cni"
	CNIResults       = CNIDir + "/results"
)

// RecordKubeconfig writes down where the administrator's kubeconfig is going to
// be, for Uninstall, and which directories it and the server's outer copy of the
// revision ceiling are the first things in. It comes before the files are written.
func RecordKubeconfig(l layout.Layout, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return Record(l.Made(), append(newDirs(l, filepath.Dir(path), filepath.Dir(l.RevisionCeiling())), Entry{Kubeconfig, path})...)
}

// RecordNodePassword writes down which directories the node password is the
// first thing in. It comes before the file is written.
func RecordNodePassword(l layout.Layout) error {
	return Record(l.Made(), newDirs(l, filepath.Dir(l.NodePassword()))...)
}

// DirsOf are the shared directories that the node is the first to use.
func DirsOf(l layout.Layout) []Entry {
	entries := newDirs(l, KubeletDir, DevicePlugins, l.Kubelet(), l.PodLogs(), ContainerLogsDir, CNIDir, CNIResults)
	if t := (Entry{Dir, KubeletDir}); l.Kubelet() == KubeletDir && isVacant(KubeletDir) {
		entries = append(entries, t)
	}
	return entries
}

// newDirs are those that do not exist, without what lies in the data directory.
func newDirs(l layout.Layout, dirs ...string) []Entry {
	var out []Entry
	for _, dir := range dirs {
		_, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) && !layout.IsBelow(dir, l.Data()) {
			out = append(out, Entry{Dir, dir})
		}
	}
	return out
}

// isVacant tells that nobody keeps anything in the directory. Sockets do not
// count: a kubelet that is gone leaves them.
func isVacant(dir string) bool {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Type()&fs.ModeSocket == 0 {
			return fs.ErrExist
		}
		return err
	})
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// Record adds entries to the file, which is only written when that says
// something new.
func Record(path string, entries ...Entry) error {
	known, err := Read(path)
	if err != nil {
		return err
	}
	before := len(known)
	for _, t := range entries {
		if !slices.Contains(known, t) {
			known = append(known, t)
		}
	}
	if len(known) == before {
		return nil
	}
	var text strings.Builder
	for _, t := range known {
		fmt.Fprintf(&text, "%s %s\n", t.Kind, t.Path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(text.String()), 0o600)
}

// Read returns the entries in the order in which they were made, none where there
// is no file.
func Read(path string) ([]Entry, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading what brink made on this machine: %w", err)
	}
	var out []Entry
	for line := range strings.Lines(string(text)) {
		if kind, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			out = append(out, Entry{kind, path})
		}
	}
	return out, nil
}
