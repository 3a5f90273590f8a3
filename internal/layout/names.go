package layout

import (
	"net/netip"
	"path"
	"slices"
	"strings"
)

// Kind is what brink has under a name.
type Kind int

const (
	// Foreign is a name that brink does not use.
	Foreign Kind = iota
	// Directory may also hold what is not brink's: each name in it is judged by itself.
	Directory
	// File is a file, a socket or a link.
	File
	// Tree is a directory that containerd or the kubelet fills. Everything in it is
	// brink's.
	Tree
)

// name is a name that brink uses, a pattern of path.Match.
type name struct {
	pattern string
	kind    Kind
}

const (
	db     = "server/db/"
	leases = "agent/cni/state/" + NetworkName
)

// dataNames are all names that brink uses in its data directory. Uninstall removes these
// and no others, so everything that brink writes there must be in this table. Two kinds of
// names are not: the directories and logs of pods, which uninstall knows by the list of
// pods, and the versions in Payload, which contain lists of their own files.
var dataNames = []name{
	{MarkFile, File}, {"made", File}, {"lock", File}, {OverlayProbe + "[0-9]*", Tree},
	{"agent", Directory},
	{"agent/containerd", Directory}, {"agent/containerd/io.containerd.*", Tree}, {"agent/containerd/tmpmounts", Tree},
	{"agent/containerd/" + OverlayProbe + "[0-9]*", Tree}, {"agent/containerd/in-use", File}, {"agent/containerd/images-unchecked", File},
	{"agent/cni", Directory}, {"agent/cni/net.d", Directory}, {"agent/cni/net.d/" + CNIConfig, File},
	{"agent/cni/state", Directory}, {"agent/cni/state/" + ForeignHostPorts, File},
	{leases, Directory}, {leases + "/" + LastReserved + "*", File}, {leases + "/lock", File},
	{"agent/images", Directory}, {"agent/pod-manifests", Directory}, // what is in these is the user's
	{"agent/imported-images.json", File}, {"agent/node-addresses.json", File}, {"agent/servers.json", File},
	{"agent/cluster.json", File}, {"agent/pod-ranges.json", File}, {"agent/server-ca.crt", File}, {"agent/client-ca.crt", File},
	{"agent/node-password", File}, {"agent/node-id", File}, {"agent/pods", File}, {"agent/seen-revision", File}, {"agent/resolv.conf", File},
	{"agent/pki", Directory}, {"agent/pki/kubelet-client-*.pem", File}, {"agent/pki/kubelet-server-*.pem", File},
	{"agent/pki/kubelet.crt", File}, {"agent/pki/kubelet.key", File},
	{"agent/kubelet", Directory}, {"agent/pod-logs", Directory},
	{"data", Directory}, {"data/" + Unpacking + "[0-9]*", Tree},
	{"server", Directory}, {"server/token", File}, {"server/volumeplugins", Directory}, {"server/manifests", Directory},
	{"server/db", Directory}, {db + DatabaseFile, File}, {db + DatabaseFile + "-wal", File}, {db + DatabaseFile + "-shm", File},
	{db + DatabaseFile + InUseSuffix, File}, {db + NewDatabase, File}, {db + NewDatabase + "-*", File},
	{db + DatabaseFile + ".damaged-*", File}, {db + DatabaseFile + "-wal.damaged-*", File}, {db + WriteProbe + "*", File},
	{db + VolatileSnapshot, File}, {db + VolatileRevision, File}, {db + DurableRevision, File},
	{db + HolderFile, File}, {db + RemoteInUse, File},
	{"server/tls", Directory}, {"server/tls/service.key", File}, {"server/version", File},
	{"server.restoring", Tree}, {replaced + "*", Tree},
	{"snapshots", Directory}, {"snapshots/" + AskedSnapshot + "*" + SnapshotEnding, File},
	{"snapshots/" + AutoSnapshot + "*" + SnapshotEnding, File}, {"snapshots/.copy", File}, {"snapshots/.copy-journal", File},
	{"upgrade", Directory}, {"upgrade/upgrade.json", File}, {"upgrade/without-snapshot", File},
}

// pairs are the names in server/tls that have a certificate and a key, those that a user
// may bring first.
var pairs = []string{
	ServerCA, ClientCA, KubeletCA, RequestHeaderCA,
	ClientAdmin, ClientAuthProxy, ClientAPIServer, ServingAPIServer, ServingKubelet,
}

// runNames are all names that brink uses in the run directory.
var runNames = []name{
	{"status.sock", File}, {"self-binds", File},
	{"datastore", Directory}, {"datastore/" + LeasesCopy, File}, {"datastore/*.sock", File},
	{"containerd", Directory}, {"containerd/runc", Tree}, {"containerd/s", Tree}, {"containerd/registries", Tree},
	{"containerd/containerd.sock", File}, {"containerd/containerd.sock.ttrpc", File}, {"containerd/io.containerd.*", Tree},
	{"containerd/containerd-mount*", Tree}, {"containerd/fifo", Tree},
}

// kubeletNames are those that the kubelet (v1.36) uses in its directory, without
// "config.yaml" and "pki", which are where other distributions put them.
var kubeletNames = []name{
	{"pods", Directory},
	{"plugins", Directory}, {MountedVolumes, Tree}, {"plugins_registry", Directory}, {FlexVolumes, Directory},
	{"pod-resources", Directory}, {"pod-resources/kubelet.sock", File},
	{DevicePlugins, Directory}, {DevicePlugins + "/" + KubeletSocket, File}, {DevicePlugins + "/" + DeviceCheckpoint, File},
	{DevicePlugins + "/DEPRECATION", File},
	{"checkpoints", Tree}, {ImageManager, Tree},
	{"cpu_manager_state", File}, {"memory_manager_state", File}, {"dra_manager_state", File},
	{"actuated_pods_state", File}, {"allocated_pods_state", File}, {"pod_status_manager_state", File}, {"graceful_node_shutdown_state", File},
}

// preexisting are the names under which users may put something into a data directory before
// brink's first start, as the documentation says: everything below these. Nothing else may
// be there at the first start.
var preexisting = []string{
	"lost+found", "agent/images", "agent/pod-manifests", "server/manifests",
	"config.yaml", "config.yaml.d", "registries.yaml", "server/tls/service.key",
}

// authorities is how many of pairs a user may bring.
const authorities = 4

func init() {
	for i, pair := range pairs {
		for _, end := range []string{".crt", ".key"} {
			dataNames = append(dataNames, name{"server/tls/" + pair + end, File})
			if i < authorities {
				preexisting = append(preexisting, "server/tls/"+pair+end)
			}
		}
	}
}

// notInData are names of the data directory that the machine's own node does not use.
var notInData = []string{"agent/kubelet", "agent/pod-logs", "agent/node-password", "agent/node-id"}

// HasElsewhere reports whether a path relative to the data directory is one that only
// further nodes of a machine use: its own node keeps the same elsewhere.
func (l Layout) HasElsewhere(rel string) bool {
	return l.machine && slices.ContainsFunc(notInData, func(name string) bool { return IsBelow(rel, name) })
}

// DataName returns what brink has under a path relative to the data directory.
func DataName(rel string) Kind {
	if dir, base := path.Split(rel); dir == leases+"/" {
		if _, err := netip.ParseAddr(base); err == nil {
			return File // a lease
		}
	}
	if below, ok := strings.CutPrefix(rel, "agent/kubelet/"); ok {
		return KubeletName(below)
	}
	return kindOf(dataNames, rel)
}

// RunName returns what brink has under a path relative to the run directory.
func RunName(rel string) Kind { return kindOf(runNames, rel) }

// KubeletName returns what the kubelet has under a path relative to its directory.
func KubeletName(rel string) Kind { return kindOf(kubeletNames, rel) }

// KubeletFiles are the files and trees that the kubelet makes in its directory, relative
// to it, but for its sockets.
func KubeletFiles() []string {
	var out []string
	for _, n := range kubeletNames {
		if n.kind != Directory && path.Ext(n.pattern) != ".sock" {
			out = append(out, n.pattern)
		}
	}
	return out
}

// kindOf looks a path up in a table. Temporary files of package atomicfile, which a killed
// process leaves, are of the kind of the file that they were to become.
func kindOf(names []name, rel string) Kind {
	for _, n := range names {
		if ok, err := path.Match(n.pattern, rel); ok && err == nil {
			return n.kind
		}
	}
	dir, base := path.Split(rel)
	hidden, isHidden := strings.CutPrefix(base, ".")
	i := strings.LastIndexByte(hidden, '.')
	if isHidden && i > 0 && i+1 < len(hidden) && strings.Trim(hidden[i+1:], "0123456789") == "" && kindOf(names, dir+hidden[:i]) == File {
		return File
	}
	return Foreign
}

// MayPreexist reports whether users may put a path, relative to the data directory, there
// before the first start.
func MayPreexist(rel string) bool {
	for _, l := range preexisting {
		if IsBelow(rel, l) {
			return true
		}
	}
	return false
}
