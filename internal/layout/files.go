package layout

// Names of files in directories that other packages get from their caller, as
// package datastore gets DB. They are here because uninstall removes what the tables
// of this package name, and nothing else: written twice, they would differ one day.

// MarkFile is in the data directory itself, see Mark.
const MarkFile = "brink.mark"

// In DB.
const (
	DatabaseFile     = "state.db" // SQLite's, with -wal and -shm beside it
	NewDatabase      = DatabaseFile + ".new"
	InUseSuffix      = ".in-use"
	DurableRevision  = "state.revision"
	VolatileSnapshot = "volatile.snapshot"
	VolatileRevision = "volatile.revision"
	HolderFile       = "holder"
	RemoteInUse      = "remote" + InUseSuffix
	// WriteProbe begins the name of a file that is written to see whether one can be.
	WriteProbe = ".probe-"
)

// In Snapshots: what somebody asked for, and what an upgrade makes by itself.
const (
	AskedSnapshot  = "snapshot-"
	AutoSnapshot   = "before-"
	SnapshotEnding = ".tar.zst"
)

// replaced begins the name of what was Server before a snapshot took its place.
const replaced = "server.replaced-"

// In DatastoreDir.
const (
	LeasesCopy     = "leases.copy"
	DurableSocket  = "durable.sock"
	VolatileSocket = "volatile.sock"
)

// In TLS, each with the endings .crt and .key.
const (
	ServerCA         = "server-ca"
	ClientCA         = "client-ca"
	KubeletCA        = "kubelet-ca"
	RequestHeaderCA  = "request-header-ca"
	ServingAPIServer = "serving-kube-apiserver"
	ServingKubelet   = "serving-kubelet"
	ClientAdmin      = "client-admin"
	ClientAPIServer  = "client-kube-apiserver"
	ClientAuthProxy  = "client-auth-proxy"
)

// In CNIConf and CNIState. Leases lie in a directory by the name of the network.
const (
	NetworkName      = "brink"
	CNIConfig        = "10-brink.conflist"
	ForeignHostPorts = "foreign-hostports"
	LastReserved     = "last_reserved_ip." // and a range's number: the host-local plugin's
)

// In Kubelet, by the kubelet's own names.
const (
	ImageManager     = "image_manager"
	FlexVolumes      = "volumeplugins"
	DevicePlugins    = "device-plugins"
	KubeletSocket    = "kubelet.sock" // in DevicePlugins, for those to register
	DeviceCheckpoint = "kubelet_internal_checkpoint"
	MountedVolumes   = "plugins/kubernetes.io"
)

// nodeCert is the node's certificate with its key, in KubeletCerts, by the kubelet's own
// name for it.
const nodeCert = "kubelet-client-current.pem"

// Unpacking begins the name of a directory in Payload that is being filled; a number
// follows.
const Unpacking = ".unpack-"

// OverlayProbe begins the name of a directory in which an overlay is tried; a number
// follows. A check that was killed leaves it.
const OverlayProbe = ".overlay-probe-"

// Files of the user's, in ConfigDir.
const (
	ConfigFile     = ConfigDir + "/config.yaml"
	ConfigDropIns  = ConfigFile + ".d"
	RegistriesFile = ConfigDir + "/registries.yaml"
)

// UserFiles are what brink reads in ConfigDir and never writes.
func UserFiles() []string { return []string{ConfigFile, ConfigDropIns, RegistriesFile} }

// kubeconfig is the name of the administrator's kubeconfig.
const kubeconfig = "brink.yaml"
