package agent

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

// trace is something that brink makes, or has upstream make, outside of its own
// directories. A line of the file layout.Made each, "kind path"; the file
// survives restarts, for the second start finds things there and makes none.
type trace struct{ kind, path string }

const (
	madeCgroup = "cgroup" // a control group that was not there before
	podsIn     = "pods"   // where pods' groups are, whoever made it
	madeDir    = "dir"    // a directory that was not there before
	kubeconfig = "kubeconfig"
)

// Places that upstream has no option to move.
const (
	kubeletDir       = "/var/lib/kubelet"
	devicePlugins    = kubeletDir + "/device-plugins"
	containerLogsDir = "/var/log/containers"
	cniDir           = "/var/lib/cni"
	cniResults       = cniDir + "/results"
)

// RecordKubeconfig writes down where the administrator's kubeconfig is going to
// be, for Uninstall, and which directories it and the server's outer copy of the
// revision ceiling are the first things in. It comes before the files are written.
func RecordKubeconfig(l layout.Layout, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return record(l.Made(), append(newDirs(l, filepath.Dir(path), filepath.Dir(l.RevisionCeiling())), trace{kubeconfig, path})...)
}

// RecordNodePassword writes down which directories the node password is the
// first thing in. It comes before the file is written.
func RecordNodePassword(l layout.Layout) error {
	return record(l.Made(), newDirs(l, filepath.Dir(l.NodePassword()))...)
}

// dirTraces are the shared directories that the node is the first to use.
func dirTraces(l layout.Layout) []trace {
	traces := newDirs(l, kubeletDir, devicePlugins, l.Kubelet(), l.PodLogs(), containerLogsDir, cniDir, cniResults)
	if t := (trace{madeDir, kubeletDir}); l.Kubelet() == kubeletDir && isVacant(kubeletDir) {
		traces = append(traces, t)
	}
	return traces
}

// newDirs are those that do not exist, without what lies in the data directory.
func newDirs(l layout.Layout, dirs ...string) []trace {
	var out []trace
	for _, dir := range dirs {
		_, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) && !isBelow(dir, l.Data()) {
			out = append(out, trace{madeDir, dir})
		}
	}
	return out
}

// isBelow tells whether path is dir or lies in it; both are clean.
func isBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
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

// record adds traces to the file, which is only written when that says
// something new.
func record(path string, traces ...trace) error {
	known, err := readTraces(path)
	if err != nil {
		return err
	}
	before := len(known)
	for _, t := range traces {
		if !slices.Contains(known, t) {
			known = append(known, t)
		}
	}
	if len(known) == before {
		return nil
	}
	var text strings.Builder
	for _, t := range known {
		fmt.Fprintf(&text, "%s %s\n", t.kind, t.path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(path, []byte(text.String()), 0o600)
}

func readTraces(path string) ([]trace, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading what brink made on this machine: %w", err)
	}
	var out []trace
	for line := range strings.Lines(string(text)) {
		if kind, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			out = append(out, trace{kind, path})
		}
	}
	return out, nil
}
