// Package ledger keeps the list of what brink, or upstream for brink, makes on a machine
// outside of brink's own directories. An entry is written before the thing is made, so
// that a crash in between loses none. Package uninstall removes what the list names and no
// more. What was there before brink is not in it and stays.
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

// Entry is a line of the file layout.Made, "kind path". The file survives restarts: the
// second start finds the things and makes none.
type Entry struct{ Kind, Path string }

// Kinds of entries.
const (
	Cgroup      = "cgroup"     // a control group that was not there before
	PodCgroups  = "pods"       // where pods' groups are, whoever made it
	Dir         = "dir"        // a directory that was not there before
	Kubeconfig  = "kubeconfig" // the administrator's
	File        = "file"       // any other file of brink's own, in a directory shared with others
	KubeletFile = "kubelet"    // a file or tree of the kubelet's in its directory that was not there before
	Sysctl      = "sysctl"     // a kernel setting: see Setting
)

// Paths that upstream has no option to change.
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

// RecordKubeconfig records the path of the administrator's kubeconfig. It must be called
// before the file is written.
func RecordKubeconfig(l layout.Layout, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return Record(l.Made(), append(newDirs(l, filepath.Dir(path)), Entry{Kubeconfig, path})...)
}

// RecordFile records that path, outside of the data directory, is going to be a file of
// brink's. It must be called before the file is written. The caller decides whether a file
// that exists already is brink's.
func RecordFile(l layout.Layout, path string) error {
	path, err := filepath.Abs(path)
	if err != nil || layout.IsBelow(path, l.Data()) {
		return err
	}
	return Record(l.Made(), append(newDirs(l, filepath.Dir(path)), Entry{File, path})...)
}

// RecordNodePassword records the file of the node password.
func RecordNodePassword(l layout.Layout) error { return RecordFile(l, l.NodePassword()) }

// Shared returns entries for what the node is the first to make outside of the data
// directory: directories that are shared with others, and the kubelet's files in its own.
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
			entries = append(entries, Entry{KubeletFile, path})
		}
	}
	return entries
}

// newDirs returns entries for the directories that do not exist and are outside of the
// data directory.
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

// isVacant reports whether nobody keeps anything in the directory. Sockets do not count,
// because a kubelet that is gone leaves them, nor does what a new disk has.
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

// mu is held while the file is changed: components start concurrently.
var mu sync.Mutex

// Record adds entries to the file. It writes the file only if one of them is new.
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
