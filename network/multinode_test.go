package network

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// testNode is a node in a network namespace with one pod, and brink's network
// running in it.
type testNode struct {
	number  int
	ns, pod netns.NsHandle
	network *Network
	stop    func()
	cfg     Config
	linger  time.Duration // of a device that nobody needs
}

// stacks name the address families of a cluster: of nodes and of pods.
type stacks struct{ underlay, pods string }

func (s stacks) of(which string, v4, v6 string) []string {
	var out []string
	for _, f := range which {
		out = append(out, map[rune]string{'4': v4, '6': v6}[f])
	}
	return out
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range texts {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// onSegment are the underlay addresses, with their prefix length, of node n in
// segment s.
func (s stacks) onSegment(segment, n int) []string {
	return s.of(s.underlay, fmt.Sprintf("192.0.%d.%d/24", segment, n), fmt.Sprintf("2001:db8:%d::%d/64", segment, n))
}

func (s stacks) nodeCIDRs(n int) []netip.Prefix {
	return prefixes(s.of(s.pods, fmt.Sprintf("10.42.%d.0/24", n), fmt.Sprintf("fd42:0:0:%d::/64", n))...)
}

func (s stacks) podAddrs(n int) []string {
	return s.of(s.pods, fmt.Sprintf("10.42.%d.10", n), fmt.Sprintf("fd42:0:0:%d::10", n))
}

func (s stacks) clusterCIDRs() []netip.Prefix {
	return prefixes(s.of(s.pods, "10.42.0.0/16", "fd42::/56")...)
}

func bare(cidrs []string) []netip.Addr {
	var out []netip.Addr
	for _, c := range cidrs {
		out = append(out, netip.MustParsePrefix(c).Addr())
	}
	return out
}

// newSegment is a switch in a namespace of its own, in which the test then is.
func newSegment(t *testing.T) netns.NsHandle {
	t.Helper()
	ns := privateNetns(t)
	addBridge(t, "segment0")
	return ns
}

// plug connects a namespace to a switch in the test's own.
func plug(t *testing.T, segment string, n int, ns netns.NsHandle, addrs, gateways []string) {
	t.Helper()
	bridge, err := netlink.LinkByName(segment)
	must(t, err)
	must(t, netlink.LinkSetMaster(connect(t, fmt.Sprintf("%s-%d", segment[len(segment)-1:], n), ns, addrs, gateways), bridge))
}

// newNode makes node n, plugged into a switch, with a pod on its bridge that
// answers by TCP. Its network does not run yet.
func newNode(t *testing.T, s stacks, segment, n int, backend Backend, gateways ...string) *testNode {
	t.Helper()
	node := &testNode{number: n, ns: otherNetns(t), pod: otherNetns(t)}
	node.configure(t, s, segment, backend)
	plug(t, fmt.Sprintf("segment%d", segment), n, node.ns, s.onSegment(segment, n), gateways)
	node.addPod(t, s)
	return node
}

func (node *testNode) configure(t *testing.T, s stacks, segment int, backend Backend) {
	t.Helper()
	dir := t.TempDir()
	node.cfg = Config{
		ClusterCIDRs: s.clusterCIDRs(),
		NodeCIDRs:    s.nodeCIDRs(node.number),
		CNIConfDir:   filepath.Join(dir, "net.d"),
		CNIStateDir:  filepath.Join(dir, "state"),
		CNICacheDir:  filepath.Join(dir, "cache"),
		CheckEvery:   24 * time.Hour, // events alone must do
		Backend:      backend,
		Underlay:     bare(s.onSegment(segment, node.number)),
	}
}

func (node *testNode) addPod(t *testing.T, s stacks) {
	t.Helper()
	n := node.number
	gateways := s.of(s.pods, fmt.Sprintf("10.42.%d.1", n), fmt.Sprintf("fd42:0:0:%d::1", n))
	inside(t, node.ns, func() error {
		bridge := addBridge(t, "brink0", s.of(s.pods, fmt.Sprintf("10.42.%d.1/24", n), fmt.Sprintf("fd42:0:0:%d::1/64", n))...)
		pod := s.of(s.pods, fmt.Sprintf("10.42.%d.10/24", n), fmt.Sprintf("fd42:0:0:%d::10/64", n))
		return netlink.LinkSetMaster(connect(t, "pod", node.pod, pod, gateways), bridge)
	})
	for _, a := range addrs(s.podAddrs(n)...) {
		listen(t, node.pod, netip.AddrPortFrom(a, 8080))
	}
}

// run starts the node's network and stops it with the test.
func (node *testNode) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	node.network = New(node.cfg)
	node.network.peers.linger = node.linger
	done := start(node.ns, func() error { return node.network.Component().Run(ctx, func() { close(ready) }) })
	stopped := false
	node.stop = func() {
		if cancel(); stopped {
			return
		}
		stopped = true
		if err := <-done; err != nil {
			t.Errorf("node %d: %v", node.number, err)
		}
	}
	t.Cleanup(node.stop)
	select {
	case <-ready:
	case err := <-done:
		stopped = true
		t.Fatalf("node %d: %v", node.number, err)
	case <-time.After(patience):
		t.Fatal("not ready")
	}
}

func (node *testNode) peer() Peer {
	return Peer{Name: fmt.Sprintf("n%d", node.number), CIDRs: node.cfg.NodeCIDRs, Underlay: node.cfg.Underlay, Backend: node.cfg.Backend}
}

// introduce tells each of the nodes of all others.
func introduce(nodes ...*testNode) {
	for _, node := range nodes {
		introduceTo(node, nodes...)
	}
}

func introduceTo(node *testNode, nodes ...*testNode) {
	var peers []Peer
	for _, other := range nodes {
		if other != node {
			peers = append(peers, other.peer())
		}
	}
	node.network.SetPeers(peers)
}

// call asks the server at addr, from ns, by which address it was called.
func call(ns netns.NsHandle, addr string, patience time.Duration) (string, error) {
	return callPort(ns, netip.AddrPortFrom(netip.MustParseAddr(addr), 8080), patience)
}

func callPort(ns netns.NsHandle, addr netip.AddrPort, patience time.Duration) (string, error) {
	var got []byte
	err := <-start(ns, func() error {
		conn, err := net.DialTimeout("tcp", addr.String(), patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		got, err = io.ReadAll(conn)
		return err
	})
	return string(got), err
}

// meet checks that every pod reaches every other by its own address.
func meet(t *testing.T, s stacks, nodes ...*testNode) {
	t.Helper()
	for _, from := range nodes {
		for _, to := range nodes {
			if from == to {
				continue
			}
			for i, addr := range s.podAddrs(to.number) {
				want, got := s.podAddrs(from.number)[i], ""
				var err error
				eventually(t, fmt.Sprintf("pod of node %d calls %s", from.number, addr), func() bool {
					got, err = call(from.pod, addr, 300*time.Millisecond)
					return err == nil
				})
				if got != want {
					t.Errorf("a call to %s arrives from %s, want %s", addr, got, want)
				}
			}
		}
	}
}

// sh runs a shell command in a namespace.
func sh(t *testing.T, ns netns.NsHandle, command string) string {
	t.Helper()
	var out []byte
	inside(t, ns, func() (err error) {
		out, err = run("sh", "-ec", command)
		return err
	})
	return string(out)
}

// waysOf is the text of all that brink keeps for peers in a namespace.
func waysOf(t *testing.T, ns netns.NsHandle) string {
	t.Helper()
	var b strings.Builder
	inside(t, ns, func() error {
		stack, err := openNetstack()
		if err != nil {
			return err
		}
		defer stack.close()
		has, err := stack.look(DefaultVXLANDevice, nil)
		if err != nil {
			return err
		}
		b.WriteString(has.text())
		return nil
	})
	return b.String()
}

var allStacks = map[string]stacks{
	"IPv4":                     {"4", "4"},
	"IPv6":                     {"6", "6"},
	"dual stack":               {"46", "46"},
	"dual stack, IPv6 first":   {"64", "64"},
	"dual stack over IPv6":     {"6", "46"},
	"dual stack pods on IPv4":  {"4", "46"},
	"IPv6 pods over IPv4 only": {"4", "6"},
}

// cluster makes nodes on one segment that know each other. All of them are as
// careful about where packets come from as Red Hat's are.
func cluster(t *testing.T, s stacks, backends ...Backend) []*testNode {
	t.Helper()
	newSegment(t)
	var nodes []*testNode
	for i, b := range backends {
		node := newNode(t, s, 0, i+1, b)
		sh(t, node.ns, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
		node.run(t)
		nodes = append(nodes, node)
	}
	introduce(nodes...)
	return nodes
}

func TestVXLAN(t *testing.T) {
	t.Parallel()
	for name, s := range allStacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, VXLAN, VXLAN, VXLAN)
			meet(t, s, nodes...)
			for _, n := range nodes {
				if err := n.network.Warnings(); err != nil {
					t.Error(err)
				}
				if got := waysOf(t, n.ns); strings.Contains(got, "strict") || strings.Contains(got, "hears") {
					t.Errorf("the device has a setting of a real network's link:\n%s", got)
				}
			}
		})
	}
}

func TestHostGW(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"IPv4", "IPv6", "dual stack"} {
		s := allStacks[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, HostGW, HostGW, HostGW)
			meet(t, s, nodes...)
			if got := waysOf(t, nodes[0].ns); strings.Contains(got, "link") {
				t.Errorf("a device without need:\n%s", got)
			}
		})
	}
}

// TestMixedBackends has nodes before and after the change.
func TestMixedBackends(t *testing.T) {
	t.Parallel()
	s := allStacks["dual stack"]
	nodes := cluster(t, s, VXLAN, HostGW, HostGW, None)
	meet(t, s, nodes[:3]...)
	if got := waysOf(t, nodes[3].ns); got != "" {
		t.Errorf("the node without a backend has\n%s", got)
	}
	direct := "route 10.42.3.0/24 via 192.0.0.3 dev 2\n"
	if got := waysOf(t, nodes[1].ns); !strings.Contains(got, direct) || !strings.Contains(got, "route 10.42.1.0/24 via 10.42.1.0") || strings.Contains(got, "10.42.4.0") {
		t.Errorf("node 2 has\n%s", got)
	}
}

// TestSources: by which address a server sees who calls from where. Within the
// cluster pods keep theirs; outside, and for other nodes' own addresses, they have
// their node's.
func TestSources(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := allStacks["dual stack"]
			nodes := cluster(t, s, backend, backend)
			meet(t, s, nodes...)
			outside := otherNetns(t)
			segment, err := netlink.LinkByName("segment0")
			must(t, err)
			must(t, netlink.LinkSetMaster(connect(t, "outside", outside, s.onSegment(0, 99), nil), segment))
			for _, a := range addrs("192.0.0.99", "2001:db8::99") {
				listen(t, outside, netip.AddrPortFrom(a, 8080))
			}
			for _, a := range addrs("192.0.0.2", "2001:db8::2") {
				listen(t, nodes[1].ns, netip.AddrPortFrom(a, 8080))
			}
			nodeAs := map[Backend][2]string{VXLAN: {"10.42.1.0", "fd42:0:0:1::"}, HostGW: {"192.0.0.1", "2001:db8::1"}}[backend]
			for _, tt := range []struct {
				name     string
				from     netns.NsHandle
				to, want string
			}{
				{"pod to pod", nodes[0].pod, "10.42.2.10", "10.42.1.10"},
				{"pod to pod, IPv6", nodes[0].pod, "fd42:0:0:2::10", "fd42:0:0:1::10"},
				{"node to pod elsewhere", nodes[0].ns, "10.42.2.10", nodeAs[0]},
				{"node to pod elsewhere, IPv6", nodes[0].ns, "fd42:0:0:2::10", nodeAs[1]},
				{"pod to another node", nodes[0].pod, "192.0.0.2", "192.0.0.1"},
				{"pod to another node, IPv6", nodes[0].pod, "2001:db8::2", "2001:db8::1"},
				{"pod to the outside", nodes[0].pod, "192.0.0.99", "192.0.0.1"},
				{"pod to the outside, IPv6", nodes[0].pod, "2001:db8::99", "2001:db8::1"},
			} {
				if got, err := call(tt.from, tt.to, patience); err != nil || got != tt.want {
					t.Errorf("%s: arrives from %s, want %s (%v)", tt.name, got, tt.want, err)
				}
			}
		})
	}
}
