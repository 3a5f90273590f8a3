package layout

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// paths calls every method of l that returns a path.
func paths(l Layout) map[string]string {
	out := map[string]string{}
	v := reflect.ValueOf(l)
	for i := range v.NumMethod() {
		if path, ok := v.Method(i).Interface().(func() string); ok {
			out[v.Type().Method(i).Name] = path()
		}
	}
	return out
}

// defaultPaths are known to users, log collectors, CSI drivers and the documentation.
var defaultPaths = map[string]string{
	"Data":               "/var/lib/brink",
	"Run":                "/run/brink",
	"Payload":            "/var/lib/brink/data",
	"Server":             "/var/lib/brink/server",
	"DB":                 "/var/lib/brink/server/db",
	"TLS":                "/var/lib/brink/server/tls",
	"Agent":              "/var/lib/brink/agent",
	"StateVersion":       "/var/lib/brink/server/version",
	"Restoring":          "/var/lib/brink/server.restoring",
	"Snapshots":          "/var/lib/brink/snapshots",
	"SnapshotCopy":       "/var/lib/brink/snapshots/.copy",
	"Upgrade":            "/var/lib/brink/upgrade",
	"UpgradeState":       "/var/lib/brink/upgrade/upgrade.json",
	"NoSnapshot":         "/var/lib/brink/upgrade/without-snapshot",
	"ContainerdRoot":     "/var/lib/brink/agent/containerd",
	"ContainerdState":    "/run/brink/containerd",
	"ContainerdSocket":   "/run/brink/containerd/containerd.sock",
	"Kubelet":            "/var/lib/kubelet",
	"CNIConf":            "/var/lib/brink/agent/cni/net.d",
	"CNIState":           "/var/lib/brink/agent/cni/state",
	"NetworkConfig":      "/var/lib/brink/agent/cni/net.d/10-brink.conflist",
	"Database":           "/var/lib/brink/server/db/state.db",
	"SavedRevision":      "/var/lib/brink/server/db/volatile.revision",
	"ContainerdInUse":    "/var/lib/brink/agent/containerd/in-use",
	"ImagesUnchecked":    "/var/lib/brink/agent/containerd/images-unchecked",
	"TempMounts":         "/var/lib/brink/agent/containerd/tmpmounts",
	"ImportedImages":     "/var/lib/brink/agent/imported-images.json",
	"ContainerdTTRPC":    "/run/brink/containerd/containerd.sock.ttrpc",
	"ShimSockets":        "/run/brink/containerd/s",
	"RuncState":          "/run/brink/containerd/runc",
	"RegistryHosts":      "/run/brink/containerd/registries",
	"KubeletPods":        "/var/lib/kubelet/pods",
	"NodeCert":           "/var/lib/brink/agent/pki/kubelet-client-current.pem",
	"Kubeconfig":         "/etc/brink/brink.yaml",
	"ContainerdDatabase": "/var/lib/brink/agent/containerd/io.containerd.metadata.v1.bolt/meta.db",
	"ContainerdBlobs":    "/var/lib/brink/agent/containerd/io.containerd.content.v1.content/blobs",
	"PodLogs":            "/var/log/pods",
	"Images":             "/var/lib/brink/agent/images",
	"Manifests":          "/var/lib/brink/agent/pod-manifests",
	"KubeletCerts":       "/var/lib/brink/agent/pki",
	"NodePassword":       "/etc/brink/node-password",
	"NodeID":             "/etc/brink/node-id",
	"RevisionCeiling":    "/etc/brink/revision",
	"SeenRevision":       "/var/lib/brink/agent/seen-revision",
	"ServerToken":        "/var/lib/brink/server/token",
	"VolumePlugins":      "/var/lib/brink/server/volumeplugins",
	"Servers":            "/var/lib/brink/agent/servers.json",
	"ClusterSettings":    "/var/lib/brink/agent/cluster.json",
	"ResolvConf":         "/var/lib/brink/agent/resolv.conf",
	"PodRanges":          "/var/lib/brink/agent/pod-ranges.json",
	"ClusterCA":          "/var/lib/brink/agent/server-ca.crt",
	"ClientCA":           "/var/lib/brink/agent/client-ca.crt",
	"NodeAddresses":      "/var/lib/brink/agent/node-addresses.json",
	"Made":               "/var/lib/brink/made",
	"DatastoreDir":       "/run/brink/datastore",
	"SelfBinds":          "/run/brink/self-binds",
	"StatusSocket":       "/run/brink/status.sock",
	"PodResources":       "/var/lib/kubelet/pod-resources/kubelet.sock",
	"Lock":               "/var/lib/brink/lock",
	"Mark":               "/var/lib/brink/brink.mark",
	"Pods":               "/var/lib/brink/agent/pods",
}

func TestDefaultPaths(t *testing.T) {
	t.Parallel()
	want := defaultPaths
	if got := paths(New(DefaultData)); !reflect.DeepEqual(got, want) {
		for name := range want {
			if got[name] != want[name] {
				t.Errorf("%s: got %s, want %s", name, got[name], want[name])
			}
		}
		for name := range got {
			if want[name] == "" {
				t.Errorf("%s is not in this table", name)
			}
		}
	}
}

// TestNodesShareNothing compares two nodes that live on one machine beside the
// default one.
func TestNodesShareNothing(t *testing.T) {
	t.Parallel()
	nodes := map[string]map[string]string{
		"default": paths(New(DefaultData)),
		"one":     paths(New("/srv/one")),
		"two":     paths(New("/srv/two")),
	}
	owner := map[string]string{}
	for node, all := range nodes {
		for name, path := range all {
			if other, taken := owner[path]; taken {
				t.Errorf("%s of %s is %s of %s too", path, node, name, other)
			}
			owner[path] = node
		}
	}
	for name, path := range nodes["one"] {
		if !strings.HasPrefix(path, "/srv/one") && !strings.HasPrefix(path, "/run/brink-") && !strings.HasPrefix(path, "/etc/brink/revision-") {
			t.Errorf("%s of the node in /srv/one is %s", name, path)
		}
	}
}

func TestSameDirectorySameNode(t *testing.T) {
	t.Parallel()
	for _, spelling := range []string{"/srv/one/", "/srv//one", "/srv/two/../one"} {
		if got, want := New(spelling), New("/srv/one"); got != want {
			t.Errorf("%s makes %v, want %v", spelling, got, want)
		}
	}
	if got, want := New("/var/lib/brink/"), New(DefaultData); got != want {
		t.Errorf("a slash behind the default directory makes %v, want %v", got, want)
	}
}

// TestSocketsFit has a data directory as long as a path may be: the sockets
// that lie in the run directory must stay within a socket address's 107 bytes.
func TestSocketsFit(t *testing.T) {
	t.Parallel()
	l := New("/" + strings.Repeat("d/", 2000))
	sockets := []string{
		l.ContainerdSocket(),
		l.ContainerdTTRPC(),
		filepath.Join(l.DatastoreDir(), VolatileSocket),
		filepath.Join(l.ShimSockets(), strings.Repeat("0", 64)),
		l.StatusSocket(),
	}
	for _, path := range sockets {
		if len(path) > MaxSocket {
			t.Errorf("%s has %d bytes, a socket's path may have %d", path, len(path), MaxSocket)
		}
	}
}

func TestCheckLength(t *testing.T) {
	t.Parallel()
	// The longest that leaves room for the kubelet's socket below it.
	longest := MaxSocket - len("/agent/kubelet/pod-resources/kubelet.sock")
	tests := []struct {
		name string
		dir  string
		ok   bool
	}{
		{"default", DefaultData, true},
		{"longest", "/" + strings.Repeat("d", longest-1), true},
		{"longer", "/" + strings.Repeat("d", longest), false},
	}
	for _, tt := range tests {
		err := New(tt.dir).CheckLength()
		if (err == nil) != tt.ok {
			t.Errorf("%s: %d bytes: got %v", tt.name, len(tt.dir), err)
		}
	}
}

func TestCheckColon(t *testing.T) {
	t.Parallel()
	for dir, ok := range map[string]bool{DefaultData: true, "/opt/a b,'c": true, "/opt/a:b": false, "/a:/b": false} {
		if err := New(dir).CheckColon(); (err == nil) != ok {
			t.Errorf("%s: got %v", dir, err)
		}
	}
}
