package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"brink/network/testnet"
)

// testNode is a node in a network namespace with one pod, and the overlay running in
// it as package network runs it.
type testNode struct {
	*testnet.Node
	cfg        Config
	checkEvery time.Duration
	desired    *Desired
	changed    func() // wakes the loop
	stop       func()

	mu       sync.Mutex
	warnings []string
	mtu      int // of pods
}

// newNode makes node n, plugged into a switch. Its overlay does not run yet.
func newNode(t *testing.T, s testnet.Stacks, segment, n int, backend Backend, gateways ...string) *testNode {
	t.Helper()
	return configured(t, testnet.NewNode(t, s, segment, n, gateways...), backend)
}

func configured(t *testing.T, n *testnet.Node, backend Backend) *testNode {
	t.Helper()
	// In package network's place; br_netfilter is not needed.
	n.Sh(t, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
	return &testNode{Node: n, checkEvery: 24 * time.Hour, cfg: Config{ // events alone must do
		ClusterCIDRs: n.Stacks.ClusterCIDRs(), NodeCIDRs: n.Stacks.NodeCIDRs(n.Number),
		Backend: backend, Underlay: n.Underlay,
		Device: DefaultDevice, Port: DefaultPort, VNI: DefaultVNI,
	}}
}

// run starts the node's overlay and stops it with the test.
func (n *testNode) run(t *testing.T) {
	t.Helper()
	n.desired = NewDesired(n.cfg)
	n.stop = testnet.Background(t, n.NS, n.loop)
}

// loop reconciles at each event and each tick.
func (n *testNode) loop(ctx context.Context, ready func()) error {
	wake := make(chan struct{}, 1)
	signal := func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	o, err := Open(n.cfg, n.desired, signal, slog.Default())
	if err != nil {
		return err
	}
	defer o.Close()
	if err := o.Watch(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	n.changed = signal
	n.mu.Unlock()
	for first := true; ; first = false {
		o.Reconcile()
		n.mu.Lock()
		n.warnings, n.mtu = o.Warnings(), o.PodMTU()
		n.mu.Unlock()
		if first {
			ready()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
			time.Sleep(100 * time.Millisecond) // as package network does
		case <-time.After(n.checkEvery):
		}
	}
}

func (n *testNode) setPeers(peers []Peer) {
	if n.desired.SetPeers(peers) {
		n.changed()
	}
}

func (n *testNode) setUnderlay(addrs []netip.Addr) {
	if n.desired.SetUnderlay(addrs) {
		n.changed()
	}
}

func (n *testNode) err() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.warnings) == 0 {
		return nil
	}
	return errors.New(strings.Join(n.warnings, "\n"))
}

func (n *testNode) podMTU() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mtu
}

func (n *testNode) peer() Peer {
	return Peer{Name: fmt.Sprintf("n%d", n.Number), CIDRs: n.cfg.NodeCIDRs, Underlay: n.cfg.Underlay, Backend: n.cfg.Backend}
}

// introduce tells each of the nodes of all others.
func introduce(nodes ...*testNode) {
	for _, n := range nodes {
		var peers []Peer
		for _, other := range testnet.Others(nodes, n) {
			peers = append(peers, other.peer())
		}
		n.setPeers(peers)
	}
}

// entriesOf is the text of all that brink keeps for peers in a namespace.
func entriesOf(t *testing.T, ns netns.NsHandle) string {
	t.Helper()
	text := ""
	testnet.Inside(t, ns, func() error {
		stack, err := openNetstack(slog.Default())
		if err != nil {
			return err
		}
		defer stack.close()
		has, err := stack.inspect(DefaultDevice, nil)
		text = has.text()
		return err
	})
	return text
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
