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
	"sync"

	"brink/internal/atomicfile"
	"brink/internal/datadir"
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
	File       = "file"       // any other file, in a directory shared with others
	KubeletHas = "kubelet"    // a file or tree of the kubelet's in its directory that was not there before
	Sysctl     = "sysctl"     // a kernel setting: see Setting
)

// Places that upstream has no option to move.
const (
	KubeletDir    = "/var/lib/kubelet"
	DevicePlugins = KubeletDir + "/" + layout.DevicePlugins
	// DevicePluginSocket is where device plugins register, DeviceCheckpoint which have.
	DevicePluginSocket = DevicePlugins + "/" + layout.KubeletSocket
	DeviceCheckpoint   = DevicePlugins + "/" + layout.DeviceCheckpoint
	ContainerLogsDir   = "/var/log/containers"
	CNIDir             = "/var/lib/cni"
	CNIResults         = CNIDir + "/results"
)

// RecordKubeconfig writes down where the administrator's kubeconfig is going to
// be, for Uninstall. It comes before the file is written.
func RecordKubeconfig(l layout.Layout, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return Record(l.Made(), append(newDirs(l, filepath.Dir(path)), Entry{Kubeconfig, path})...)
}

// RecordFile writes down that path, outside of the data directory, is going to be a
// file of brink's. It comes before the file is written; whoever writes it judges
// whether a file that is there already is one of ours.
func RecordFile(l layout.Layout, path string) error {
	path, err := filepath.Abs(path)
	if err != nil || layout.IsBelow(path, l.Data()) {
		return err
	}
	return Record(l.Made(), append(newDirs(l, filepath.Dir(path)), Entry{File, path})...)
}

// RecordNodePassword is RecordFile for the node password.
func RecordNodePassword(l layout.Layout) error { return RecordFile(l, l.NodePassword()) }

// Shared are the places outside of the data directory that the node is the first to use:
// directories, and what the kubelet is going to make in its own.
func Shared(l layout.Layout) []Entry {
	entries := newDirs(l, KubeletDir, DevicePlugins, l.Kubelet(), l.PodLogs(), ContainerLogsDir, CNIDir, CNIResults)
	if l.Kubelet() == KubeletDir && isVacant(datadir.Resolve(KubeletDir)) && !slices.Contains(entries, Entry{Dir, KubeletDir}) {
		entries = append(entries, Entry{Dir, KubeletDir})
	}
	if layout.IsBelow(l.Kubelet(), l.Data()) {
		return entries
	}
	for _, name := range layout.KubeletFiles() {
		path := l.InKubelet(name)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			entries = append(entries, Entry{KubeletHas, path})
		}
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
// count, for a kubelet that is gone leaves them, nor does what a new disk has.
func isVacant(dir string) bool {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "lost+found" {
			return fs.SkipDir
		}
		if err == nil && !d.IsDir() && d.Type()&fs.ModeSocket == 0 {
			return fs.ErrExist
		}
		return err
	})
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// mu is held while the file is changed: components start at the same time.
var mu sync.Mutex

// Record adds entries to the file, which is only written when that says
// something new.
func Record(path string, entries ...Entry) error {
	mu.Lock()
	defer mu.Unlock()
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
	return write(path, known)
}

func write(path string, entries []Entry) error {
	var text strings.Builder
	for _, t := range entries {
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
	text, err := atomicfile.Read(path)
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
