package containerd

// What the tests with a running node look at; these are in package containerd_test, as
// the node imports this one.
const (
	TTRPCSuffix    = ttrpcSuffix
	MetadataPlugin = metadataPlugin
)

// WaitPinned waits until the CRI knows an image as pinned.
var WaitPinned = waitPinned

// HostsDir is where the settings of registries are.
func HostsDir(c Config) string { return c.hostsDir() }
