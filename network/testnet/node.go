package testnet

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"brink/internal/testaddr"
)

// Stacks name the address families of a cluster, "4", "6", "46" or "64": of nodes
// and of pods.
type Stacks struct{ Underlay, Pods string }

// DualStack is IPv4 and IPv6, of nodes and of pods.
var DualStack = Stacks{"46", "46"}

// AllStacks are those that brink supports.
var AllStacks = map[string]Stacks{
	"IPv4":                     {"4", "4"},
	"IPv6":                     {"6", "6"},
	"dual stack":               DualStack,
	"dual stack, IPv6 first":   {"64", "64"},
	"dual stack over IPv6":     {"6", "46"},
	"dual stack pods on IPv4":  {"4", "46"},
	"IPv6 pods over IPv4 only": {"4", "6"},
}

func of(which string, v4, v6 string) []string {
	var out []string
	for _, f := range which {
		out = append(out, map[rune]string{'4': v4, '6': v6}[f])
	}
	return out
}

// OfUnderlay returns the texts of the families of nodes.
func (s Stacks) OfUnderlay(v4, v6 string) []string { return of(s.Underlay, v4, v6) }

// OnSegment are the underlay addresses, with their prefix length, of node n in a
// segment.
func (s Stacks) OnSegment(segment, n int) []string {
	return of(s.Underlay, fmt.Sprintf("192.0.%d.%d/24", segment, n), fmt.Sprintf("2001:db8:%d::%d/64", segment, n))
}

// NodeCIDRs are the pods' prefixes of node n.
func (s Stacks) NodeCIDRs(n int) []netip.Prefix {
	return testaddr.Prefixes(of(s.Pods, fmt.Sprintf("10.42.%d.0/24", n), fmt.Sprintf("fd42:0:0:%d::/64", n))...)
}

// PodAddrs are the addresses of the pod of node n.
func (s Stacks) PodAddrs(n int) []string {
	return of(s.Pods, fmt.Sprintf("10.42.%d.10", n), fmt.Sprintf("fd42:0:0:%d::10", n))
}

// ClusterCIDRs are the pods' prefixes of all nodes.
func (s Stacks) ClusterCIDRs() []netip.Prefix {
	return testaddr.Prefixes(of(s.Pods, "10.42.0.0/16", "fd42::/56")...)
}

// Bare are addresses without their prefix length.
func Bare(cidrs []string) []netip.Addr {
	var out []netip.Addr
	for _, c := range cidrs {
		out = append(out, netip.MustParsePrefix(c).Addr())
	}
	return out
}

// EnterSegment moves the test to a new namespace, in which "segment0" is a switch.
func EnterSegment(t *testing.T) netns.NsHandle {
	t.Helper()
	ns := Enter(t)
	AddBridge(t, "segment0")
	return ns
}

// Segment moves the test to a new namespace with a switch and makes nodes that are plugged
// into it, with numbers from 1. All of them are as careful about where packets come from as
// Red Hat's are.
func Segment[N Machine](t *testing.T, count int, newNode func(number int) N) []N {
	t.Helper()
	EnterSegment(t)
	var nodes []N
	for i := range count {
		node := newNode(i + 1)
		node.Machine().Sh(t, "sysctl -qw net.ipv4.conf.all.rp_filter=1")
		nodes = append(nodes, node)
	}
	return nodes
}

// Plug connects a namespace to a switch in the test's own.
func Plug(t *testing.T, segment string, n int, ns netns.NsHandle, addrs, gateways []string) {
	t.Helper()
	bridge, err := netlink.LinkByName(segment)
	Must(t, err)
	Must(t, netlink.LinkSetMaster(Connect(t, fmt.Sprintf("%s-%d", segment[len(segment)-1:], n), ns, addrs, gateways), bridge))
}

// Stranger is a machine on the segment that is no node, with the number 99.
func Stranger(t *testing.T, s Stacks) netns.NsHandle {
	t.Helper()
	ns := New(t)
	Plug(t, "segment0", 99, ns, s.OnSegment(0, 99), nil)
	return ns
}

// Node is a machine with one pod on its bridge brink0, which answers by TCP on port
// 8080. Nothing of brink runs there.
type Node struct {
	Number   int
	NS, Pod  netns.NsHandle
	Stacks   Stacks
	Underlay []netip.Addr
}

// NewNode makes node n, plugged into the switch of a segment.
func NewNode(t *testing.T, s Stacks, segment, n int, gateways ...string) *Node {
	t.Helper()
	node := Unplugged(t, s, segment, n)
	Plug(t, fmt.Sprintf("segment%d", segment), n, node.NS, s.OnSegment(segment, n), gateways)
	node.AddPod(t)
	return node
}

// Unplugged is node n of a segment without a link and a pod.
func Unplugged(t *testing.T, s Stacks, segment, n int) *Node {
	t.Helper()
	return &Node{Number: n, NS: New(t), Pod: New(t), Stacks: s, Underlay: Bare(s.OnSegment(segment, n))}
}

// AddPod makes the bridge and puts the pod on it.
func (n *Node) AddPod(t *testing.T) {
	t.Helper()
	gateways := of(n.Stacks.Pods, fmt.Sprintf("10.42.%d.1", n.Number), fmt.Sprintf("fd42:0:0:%d::1", n.Number))
	Inside(t, n.NS, func() error {
		bridge := AddBridge(t, "brink0", of(n.Stacks.Pods, fmt.Sprintf("10.42.%d.1/24", n.Number), fmt.Sprintf("fd42:0:0:%d::1/64", n.Number))...)
		pod := of(n.Stacks.Pods, fmt.Sprintf("10.42.%d.10/24", n.Number), fmt.Sprintf("fd42:0:0:%d::10/64", n.Number))
		return netlink.LinkSetMaster(Connect(t, "pod", n.Pod, pod, gateways), bridge)
	})
	for _, a := range n.PodAddrs() {
		Listen(t, n.Pod, netip.AddrPortFrom(netip.MustParseAddr(a), 8080))
	}
}

// PodAddrs are the addresses of its pod.
func (n *Node) PodAddrs() []string { return n.Stacks.PodAddrs(n.Number) }

// Sh runs a shell command on the node.
func (n *Node) Sh(t *testing.T, command string) string {
	t.Helper()
	return Sh(t, n.NS, command)
}

// Machine returns n, for those that embed one.
func (n *Node) Machine() *Node { return n }

// Machine is a Node or what embeds one.
type Machine interface {
	comparable
	Machine() *Node
}

// Others are nodes without one of them.
func Others[N Machine](nodes []N, one N) []N {
	var out []N
	for _, n := range nodes {
		if n != one {
			out = append(out, n)
		}
	}
	return out
}

// Call asks the server at port 8080 of addr, from ns, by which address it was called.
func Call(ns netns.NsHandle, addr string, patience time.Duration) (string, error) {
	return CallPort(ns, netip.AddrPortFrom(netip.MustParseAddr(addr), 8080), patience)
}

// CallPort asks a server at any port.
func CallPort(ns netns.NsHandle, addr netip.AddrPort, patience time.Duration) (string, error) {
	var got []byte
	err := <-Start(ns, func() error {
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

// Meet checks that every pod reaches every other by its own address.
func Meet[N Machine](t *testing.T, nodes ...N) {
	t.Helper()
	for _, from := range nodes {
		for _, to := range Others(nodes, from) {
			meet(t, from.Machine(), to.Machine())
		}
	}
}

func meet(t *testing.T, from, to *Node) {
	t.Helper()
	for i, addr := range to.PodAddrs() {
		want, got := from.PodAddrs()[i], ""
		Eventually(t, fmt.Sprintf("pod of node %d calls %s", from.Number, addr), func() bool {
			var err error
			got, err = Call(from.Pod, addr, 300*time.Millisecond)
			return err == nil
		})
		if got != want {
			t.Errorf("a call to %s arrives from %s, want %s", addr, got, want)
		}
	}
}

// GivePorts makes the node's pod one with host ports, by what the CNI plugins and
// their library leave of it on disk, below stateDir and cacheDir.
func (n *Node) GivePorts(t *testing.T, stateDir, cacheDir, container string) {
	t.Helper()
	leases := filepath.Join(stateDir, "brink")
	Must(t, os.MkdirAll(leases, 0o755))
	var ips []string
	for _, a := range n.PodAddrs() {
		Must(t, os.WriteFile(filepath.Join(leases, a), []byte(container+"\r\neth0"), 0o644))
		ips = append(ips, fmt.Sprintf(`{"address": "%s/24"}`, a))
	}
	sandbox := filepath.Join(t.TempDir(), "netns")
	Must(t, os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.Pod), sandbox))
	results := filepath.Join(cacheDir, "results")
	Must(t, os.MkdirAll(results, 0o755))
	Must(t, os.WriteFile(filepath.Join(results, "brink-"+container+"-eth0"), []byte(fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "networkName": "brink",
		"capabilityArgs": {"portMappings": [{"HostPort": 80, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""}, {"HostPort": 81, "ContainerPort": 8080, "Protocol": "TCP", "HostIP": "192.0.0.1"}, {"HostPort": 82, "ContainerPort": 8080, "Protocol": "udp"}, {"HostPort": 0, "ContainerPort": 1, "Protocol": "tcp"}]},
		"result": {"interfaces": [{"name": "brink0"}, {"name": "pod"}, {"name": "eth0", "sandbox": %q}], "ips": [%s]}}`, container, sandbox, strings.Join(ips, ", "))), 0o600))
}
