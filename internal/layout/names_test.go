package layout

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]Kind{
		"agent":                             Directory,
		"agent/containerd/io.containerd.x":  Tree,
		"agent/containerd/photo.jpg":        Foreign,
		"agent/recordings":                  Foreign,
		"agent/images":                      Directory,
		"agent/images/a.tar":                Foreign,
		"agent/cni/state/brink/10.42.0.2":   File,
		"agent/cni/state/brink/fd00::2":     File,
		"agent/cni/state/brink/album.jpg":   Foreign,
		"agent/kubelet/cpu_manager_state":   File,
		"agent/kubelet/config.yaml":         Foreign,
		"agent/pki/kubelet-client-2026.pem": File,
		"server/tls/server-ca.key":          File,
		"server/tls/.server-ca.key.123":     File, // of a write that was killed
		"server/tls/.photo.123":             Foreign,
		"server/tls/.server-ca.key.12a":     Foreign,
		"server/db/backup.db":               Foreign,
		"made":                              File,
		".made.1":                           File,
		"photos":                            Foreign,
	} {
		if got := DataName(path); got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
}

// TestPathsAreNamed: what the layout has a path for, uninstall must know.
func TestPathsAreNamed(t *testing.T) {
	t.Parallel()
	l := New("/srv/one")
	for method, path := range paths(l) {
		if IsBelow(path, ConfigDir) {
			continue // shared with others: what is made there is in the ledger
		}
		if path == l.Kubeconfig() {
			continue // written where the user says: it is in the ledger
		}
		root, name := l.Data(), DataName
		if IsBelow(path, l.Run()) {
			root, name = l.Run(), RunName
		}
		rel, err := filepath.Rel(root, path)
		if err != nil || strings.HasPrefix(rel, "..") {
			t.Errorf("%s is %s", method, path)
			continue
		}
		if rel != "." && name(rel) == Foreign && !inTree(name, rel) {
			t.Errorf("%s: %s is in no table of names: uninstall would leave it", method, path)
		}
	}
}

// inTree reports whether a path lies below one that is a Tree.
func inTree(name func(string) Kind, rel string) bool {
	for dir := filepath.Dir(rel); dir != "."; dir = filepath.Dir(dir) {
		if name(dir) == Tree {
			return true
		}
	}
	return false
}

func TestMayPreexist(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"agent/images": true, "agent/images/site/a.tar": true, "server/tls/server-ca.crt": true, "lost+found": true,
		"server/tls/client-admin.key": false, "server/tls": false, "agent/imagesx": false, "photos": false, "server/db/state.db": false,
	} {
		if got := MayPreexist(path); got != want {
			t.Errorf("%s: got %t", path, got)
		}
	}
}
