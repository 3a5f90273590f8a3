package network

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"brink/network/testnet"
)

// testNode is a node in a network namespace with one pod, and brink's network
// running in it.
type testNode struct {
	*testnet.Node
	cfg     Config
	network *Network
	stop    func()
}

// newNode makes node n, plugged into a switch. Its network does not run yet.
func newNode(t *testing.T, s testnet.Stacks, segment, n int, backend Backend, gateways ...string) *testNode {
	t.Helper()
	dir := t.TempDir()
	return &testNode{Node: testnet.NewNode(t, s, segment, n, gateways...), cfg: Config{
		ClusterCIDRs: s.ClusterCIDRs(),
		NodeCIDRs:    s.NodeCIDRs(n),
		CNIConfDir:   filepath.Join(dir, "net.d"),
		CNIStateDir:  filepath.Join(dir, "state"),
		cniCacheDir:  filepath.Join(dir, "cache"),
		checkEvery:   24 * time.Hour, // events alone must do
		linger:       time.Nanosecond,
		Backend:      backend,
		Underlay:     testnet.Bare(s.OnSegment(segment, n)),
	}}
}

// run starts the node's network and stops it with the test.
func (n *testNode) run(t *testing.T) {
	t.Helper()
	n.network = New(n.cfg)
	n.stop = testnet.Background(t, n.NS, n.network.Component().Run)
}

func (n *testNode) peer() Peer {
	return Peer{Name: fmt.Sprintf("n%d", n.Number), CIDRs: n.cfg.NodeCIDRs, Underlay: n.cfg.Underlay, Backend: n.cfg.Backend}
}

// introduce tells each of the nodes of all others.
func introduce(nodes ...*testNode) {
	for _, n := range nodes {
		introduceTo(n, nodes...)
	}
}

func introduceTo(n *testNode, nodes ...*testNode) {
	var peers []Peer
	for _, other := range testnet.Others(nodes, n) {
		peers = append(peers, other.peer())
	}
	n.network.SetPeers(peers)
}

// cluster makes nodes on one segment that know each other.
func cluster(t *testing.T, s testnet.Stacks, backends ...Backend) []*testNode {
	t.Helper()
	nodes := testnet.Segment(t, len(backends), func(number int) *testNode { return newNode(t, s, 0, number, backends[number-1]) })
	for _, n := range nodes {
		n.run(t)
	}
	introduce(nodes...)
	return nodes
}

// routesOf lists the routes to peers in a namespace, and its VXLAN devices.
func routesOf(t *testing.T, ns netns.NsHandle) string {
	t.Helper()
	return testnet.Sh(t, ns, "ip route show proto 98; ip -6 route show proto 98; ip -o link show type vxlan")
}
