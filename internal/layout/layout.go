// Package layout names every file and directory that brink keeps. All paths follow from
// the data directory, so that several nodes can run on one machine. Nothing else in brink
// joins a path of its own below these roots or names a file of its own there, which a test
// keeps: uninstall removes what the tables of names.go list, and nothing else.
package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"strings"
)

const (
	// DefaultData is the data directory of a node that names none.
	DefaultData = "/var/lib/brink"
	// ConfigDir holds config.yaml, config.yaml.d, registries.yaml and the
	// admin kubeconfig.
	ConfigDir = "/etc/brink"
	// defaultRun is on a tmpfs on every systemd host: sockets and containerd's volatile
	// state cost no flash wear there.
	defaultRun = "/run/brink"
	// MaxSocket is how many bytes the path of a unix socket may have: the size of
	// sun_path without its final zero, unix(7).
	MaxSocket = 107
)

// Layout is the set of paths of one node. Its methods return absolute paths;
// none of them creates anything.
type Layout struct {
	data    string
	run     string
	machine bool // the machine's own node, see IsDefault
}

// New returns the layout below dataDir, which must be absolute. A data
// directory other than the default gets a run directory of its own, named by
// its hash: unix socket paths may not exceed MaxSocket bytes, so it cannot
// simply lie below a data directory of any length.
//
// Links are not followed. For a directory that may be behind one there is
// datadir.Locate.
func New(dataDir string) Layout {
	dataDir = filepath.Clean(dataDir)
	return At(dataDir, RunOf(dataDir))
}

// At returns the layout of a node with these data and run directories.
func At(dataDir, run string) Layout {
	return Layout{data: dataDir, run: run, machine: run == defaultRun}
}

// RunOf returns the run directory that belongs to the name of a data directory.
func RunOf(dataDir string) string {
	if dataDir == DefaultData {
		return defaultRun
	}
	sum := sha256.Sum256([]byte(dataDir))
	return defaultRun + "-" + hex.EncodeToString(sum[:4])
}

// IsDefault reports whether this is the machine's own node, in DefaultData or where that
// leads, and not a further one. It uses the directories where other software expects a
// node.
func (l Layout) IsDefault() bool { return l.machine }

// Data is the root of everything that survives a reboot.
func (l Layout) Data() string { return l.data }

// Run is the root of sockets and state that a reboot may take away.
func (l Layout) Run() string { return l.run }

// Payload is where versions of the embedded programs are unpacked, each in a directory
// named by its hash.
func (l Layout) Payload() string { return filepath.Join(l.data, "data") }

// Version is the directory of one version in Payload.
func (l Layout) Version(sum string) string { return filepath.Join(l.Payload(), sum) }

// InData returns the absolute path of rel, a path relative to the data directory as DataName
// takes it.
func (l Layout) InData(rel string) string { return filepath.Join(l.data, rel) }

// Server is the control plane's directory.
func (l Layout) Server() string { return filepath.Join(l.data, "server") }

// DB is the datastore's directory.
func (l Layout) DB() string { return filepath.Join(l.Server(), "db") }

// Database is the database of SQLite, in DB.
func (l Layout) Database() string { return filepath.Join(l.DB(), DatabaseFile) }

// SavedRevision is where the revision of leases and events is kept, in DB.
func (l Layout) SavedRevision() string { return filepath.Join(l.DB(), VolatileRevision) }

// TLS holds the cluster's CAs and the server's leaf certificates.
func (l Layout) TLS() string { return filepath.Join(l.Server(), "tls") }

// Cert is the file of a certificate in TLS, by its name such as ServerCA.
func (l Layout) Cert(name string) string { return filepath.Join(l.TLS(), name+".crt") }

// Key is the file of the key of a certificate in TLS.
func (l Layout) Key(name string) string { return filepath.Join(l.TLS(), name+".key") }

// StateVersion says which brink has used the state in Server last. It is in Server so that it
// goes with the state wherever that is copied to.
func (l Layout) StateVersion() string { return filepath.Join(l.Server(), "version") }

// Restoring is where a snapshot is unpacked before it takes the place of Server.
func (l Layout) Restoring() string { return filepath.Join(l.data, "server.restoring") }

// Replaced is where Server goes when a snapshot takes its place, by a text for the time.
func (l Layout) Replaced(at string) string { return filepath.Join(l.data, replaced+at) }

// Snapshots holds snapshots of Server. It is outside of Server, whose place a restored one
// takes.
func (l Layout) Snapshots() string { return filepath.Join(l.data, "snapshots") }

// Snapshot is the file of a snapshot in Snapshots, by its name without the ending. The name
// begins with AskedSnapshot or AutoSnapshot.
func (l Layout) Snapshot(name string) string {
	return filepath.Join(l.Snapshots(), name+SnapshotEnding)
}

// SnapshotCopy is the copy of the database from which a snapshot is made.
func (l Layout) SnapshotCopy() string { return filepath.Join(l.Snapshots(), ".copy") }

// Upgrade holds what an upgrade has to know after a power cut.
func (l Layout) Upgrade() string { return filepath.Join(l.data, "upgrade") }

// UpgradeState is the file in Upgrade that says what is being done, or was done last.
func (l Layout) UpgradeState() string { return filepath.Join(l.Upgrade(), "upgrade.json") }

// NoSnapshot is the file in Upgrade that names the version whose first start makes no snapshot.
func (l Layout) NoSnapshot() string { return filepath.Join(l.Upgrade(), "without-snapshot") }

// Agent is the node's directory.
func (l Layout) Agent() string { return filepath.Join(l.data, "agent") }

// ContainerdRoot holds images and snapshots.
func (l Layout) ContainerdRoot() string { return filepath.Join(l.Agent(), "containerd") }

// ContainerdInUse exists while containerd runs. Found at a start, it says that the last
// run did not end in order.
func (l Layout) ContainerdInUse() string { return filepath.Join(l.ContainerdRoot(), "in-use") }

// ImagesUnchecked exists after a run that did not end in order, until all images have been
// checked. It may outlast several starts.
func (l Layout) ImagesUnchecked() string {
	return filepath.Join(l.ContainerdRoot(), "images-unchecked")
}

// TempMounts is where containerd mounts an image while it unpacks it.
func (l Layout) TempMounts() string { return filepath.Join(l.ContainerdRoot(), "tmpmounts") }

// ContainerdDatabase is containerd's database, with the names of its images and containers.
func (l Layout) ContainerdDatabase() string {
	return filepath.Join(l.ContainerdRoot(), "io.containerd.metadata.v1.bolt", "meta.db")
}

// ContainerdBlobs holds what was downloaded of images, by algorithm and digest.
func (l Layout) ContainerdBlobs() string {
	return filepath.Join(l.ContainerdRoot(), "io.containerd.content.v1.content", "blobs")
}

// ImportedImages records which archives of Images were imported.
func (l Layout) ImportedImages() string { return filepath.Join(l.Agent(), "imported-images.json") }

// ContainerdState holds sockets, the state of shims and the mounts of root file systems.
func (l Layout) ContainerdState() string { return filepath.Join(l.run, "containerd") }

// ContainerdSocket is the CRI and containerd API socket.
func (l Layout) ContainerdSocket() string {
	return filepath.Join(l.ContainerdState(), "containerd.sock")
}

// ShimSockets holds the sockets of shims, which have names of 64 digits.
func (l Layout) ShimSockets() string { return filepath.Join(l.ContainerdState(), "s") }

// RuncState is where runc keeps what it knows of containers.
func (l Layout) RuncState() string { return filepath.Join(l.ContainerdState(), "runc") }

// RegistryHosts is where containerd reads the endpoints of registries, see package
// images.
func (l Layout) RegistryHosts() string { return filepath.Join(l.ContainerdState(), "registries") }

// ContainerdTTRPC is the socket on which shims report events.
func (l Layout) ContainerdTTRPC() string { return l.ContainerdSocket() + ".ttrpc" }

// Kubelet is the kubelet's root directory. The machine's own node uses the directory that
// the manifests of CSI drivers name: they mount it under the same path inside and outside,
// and the kubelet gives them paths below it.
func (l Layout) Kubelet() string {
	if l.machine {
		return "/var/lib/kubelet"
	}
	return filepath.Join(l.Agent(), "kubelet")
}

// InKubelet returns the absolute path of rel, a path relative to Kubelet as KubeletName takes
// it.
func (l Layout) InKubelet(rel string) string { return filepath.Join(l.Kubelet(), rel) }

// KubeletPods holds the pods' volumes, one directory a pod, by uid.
func (l Layout) KubeletPods() string { return filepath.Join(l.Kubelet(), "pods") }

// PodResources is the kubelet's socket with the longest path.
func (l Layout) PodResources() string {
	return filepath.Join(l.Kubelet(), "pod-resources", "kubelet.sock")
}

// CheckLength returns an error if the kubelet's sockets would not fit into a socket
// address: the kubelet would end the process without a word to the user. They cannot be
// anywhere but below its root.
func (l Layout) CheckLength() error {
	if over := len(l.PodResources()) - MaxSocket; over > 0 {
		return fmt.Errorf("%s: path too long for the sockets below it by %d bytes, at most %d are possible", l.data, over, len(l.data)-over)
	}
	return nil
}

// CheckColon returns an error if pods could not run: the directories of CNI plugins are a
// list that is split at colons, as PATH is.
func (l Layout) CheckColon() error {
	if strings.Contains(l.data, ":") {
		return fmt.Errorf("%s: a path with a colon in it cannot hold the programs that pods need: choose another, or mount this one elsewhere", l.data)
	}
	return nil
}

// CNIConf is the CNI configuration directory.
func (l Layout) CNIConf() string { return filepath.Join(l.Agent(), "cni", "net.d") }

// NetworkConfig is the pod network's file in CNIConf.
func (l Layout) NetworkConfig() string { return filepath.Join(l.CNIConf(), CNIConfig) }

// CNIState is where CNI results and address leases are kept.
func (l Layout) CNIState() string { return filepath.Join(l.Agent(), "cni", "state") }

// PodLogs is where the kubelet writes the logs of containers: for the machine's own node
// where every log collector expects them.
func (l Layout) PodLogs() string {
	if l.machine {
		return "/var/log/pods"
	}
	return filepath.Join(l.Agent(), "pod-logs")
}

// Images holds image archives that are imported at start.
func (l Layout) Images() string { return filepath.Join(l.Agent(), "images") }

// Manifests holds static pods.
func (l Layout) Manifests() string { return filepath.Join(l.Agent(), "pod-manifests") }

// NodeAddresses is the file with the addresses that were last found.
func (l Layout) NodeAddresses() string { return filepath.Join(l.Agent(), "node-addresses.json") }

// NodePassword is the secret that proves that the node's name belongs to this machine. The
// machine's own node keeps it outside of the data directory: a machine whose data was lost
// or removed by hand is still the same machine.
func (l Layout) NodePassword() string {
	if l.machine {
		return filepath.Join(ConfigDir, "node-password")
	}
	return filepath.Join(l.Agent(), "node-password")
}

// NodeID is the file with what --with-node-id appends to the node's name. It is where the
// node password is, for the same reason.
func (l Layout) NodeID() string {
	if l.machine {
		return filepath.Join(ConfigDir, "node-id")
	}
	return filepath.Join(l.Agent(), "node-id")
}

// Certificates are patterns of the files with the node's certificates and its cluster's.
func (l Layout) Certificates() []string {
	return []string{filepath.Join(l.TLS(), "*.crt"), filepath.Join(l.Agent(), "*.crt"), filepath.Join(l.KubeletCerts(), "*.pem")}
}

// RevisionCeiling is where a server remembers which revisions its cluster has handed out.
// It is outside of the data directory, in case an older copy of that is put back.
func (l Layout) RevisionCeiling() string {
	return filepath.Join(ConfigDir, "revision"+strings.TrimPrefix(l.run, defaultRun))
}

// SeenRevision is where an agent remembers the highest revision that it has seen.
func (l Layout) SeenRevision() string { return filepath.Join(l.Agent(), "seen-revision") }

// ServerToken is the join token that does not expire.
func (l Layout) ServerToken() string { return filepath.Join(l.Server(), "token") }

// VolumePlugins holds the FlexVolume drivers with which the controllers attach volumes.
// Those of the kubelet are in FlexVolumes below Kubelet.
func (l Layout) VolumePlugins() string { return filepath.Join(l.Server(), "volumeplugins") }

// Servers is the file in which an agent remembers the cluster's servers.
func (l Layout) Servers() string { return filepath.Join(l.Agent(), "servers.json") }

// ClusterSettings is the file in which an agent remembers the cluster's settings for
// nodes, for a start without a server.
func (l Layout) ClusterSettings() string { return filepath.Join(l.Agent(), "cluster.json") }

// PodRanges is the file in which an agent remembers the address ranges of its own pods,
// for a start without a server.
func (l Layout) PodRanges() string { return filepath.Join(l.Agent(), "pod-ranges.json") }

// ResolvConf is the resolv.conf of pods with dnsPolicy Default.
func (l Layout) ResolvConf() string { return filepath.Join(l.Agent(), "resolv.conf") }

// ClusterCA is the server CA as an agent has verified it.
func (l Layout) ClusterCA() string { return filepath.Join(l.Agent(), "server-ca.crt") }

// ClientCA is the CA by which an agent's kubelet verifies its clients.
func (l Layout) ClientCA() string { return filepath.Join(l.Agent(), "client-ca.crt") }

// KubeletCerts is the kubelet's certificate directory.
func (l Layout) KubeletCerts() string { return filepath.Join(l.Agent(), "pki") }

// NodeCert is the node's certificate with its key, in KubeletCerts.
func (l Layout) NodeCert() string { return filepath.Join(l.KubeletCerts(), nodeCert) }

// Kubeconfig is where the administrator's kubeconfig goes. Only the machine's own node
// has it in ConfigDir, where another one's would take its place.
func (l Layout) Kubeconfig() string {
	if l.machine {
		return filepath.Join(ConfigDir, kubeconfig)
	}
	return filepath.Join(l.data, kubeconfig)
}

// Made lists what brink has made on the machine outside of its own directories: the ledger.
func (l Layout) Made() string { return filepath.Join(l.data, "made") }

// DatastoreDir is the 0700 directory of kine's unix sockets.
func (l Layout) DatastoreDir() string { return filepath.Join(l.run, "datastore") }

// StatusSocket is where a running node answers `brink status`.
func (l Layout) StatusSocket() string { return filepath.Join(l.run, "status.sock") }

// SelfBinds is where an agent writes how often the kubelet's directory was mounted on
// itself before its kubelet did that.
func (l Layout) SelfBinds() string { return filepath.Join(l.run, "self-binds") }

// Mark is the file that marks a data directory as brink's.
func (l Layout) Mark() string { return filepath.Join(l.data, MarkFile) }

// Pods lists the pods that this node has had, by uid.
func (l Layout) Pods() string { return filepath.Join(l.Agent(), "pods") }

// Lock is held while a brink process uses the data directory. It contains the holder's
// process id.
func (l Layout) Lock() string { return filepath.Join(l.data, "lock") }

// IsBelow reports whether path is dir or lies in it. Both are clean.
func IsBelow(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}
