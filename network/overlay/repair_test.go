package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"brink/internal/testaddr"
	"brink/network/testnet"
)

const dev = DefaultDevice

// What peers know node 2 by.
var (
	mac2 = vtepMAC(testaddr.Prefixes("10.42.2.0/24")).String()
	hop2 = vtepHop(testaddr.Prefixes("fd42::/64")[0], vtepMAC(testaddr.Prefixes("10.42.2.0/24"))).String()
)

// damages are what somebody does to the entries of node 1.
var damages = map[string]map[Backend]string{
	"route deleted":         {VXLAN: "ip route del 10.42.2.0/24", HostGW: "ip route del 10.42.2.0/24"},
	"IPv6 route deleted":    {VXLAN: "ip -6 route del fd42:0:0:2::/64", HostGW: "ip -6 route del fd42:0:0:2::/64"},
	"routes flushed":        {VXLAN: "ip route flush proto 98; ip -6 route flush proto 98", HostGW: "ip route flush proto 98; ip -6 route flush proto 98"},
	"route changed":         {VXLAN: "ip route replace 10.42.2.0/24 via 192.0.0.2 proto 98", HostGW: "ip route replace 10.42.2.0/24 via 192.0.0.77 proto 98"},
	"stray route added":     {VXLAN: "ip route add 10.42.99.0/24 via 192.0.0.2 proto 98", HostGW: "ip -6 route add fd42:0:0:99::/64 via 2001:db8::2 proto 98"},
	"second route added":    {VXLAN: "ip route add 10.42.2.0/24 metric 7 via 192.0.0.2 proto 98", HostGW: "ip route add 10.42.2.0/24 metric 7 via 192.0.0.2 proto 98"},
	"several next hops":     {VXLAN: "ip route add 10.42.9.0/24 proto 98 nexthop via 192.0.0.2 nexthop via 192.0.0.7", HostGW: "ip -6 route append fd42:0:0:2::/64 via 2001:db8::7 metric 1024 proto 98"},
	"underlay link flapped": {HostGW: "ip link set eth0 down; sleep 0.3; ip link set eth0 up; ip addr replace 2001:db8::1/64 dev eth0 nodad"},
	"neighbour deleted":     {VXLAN: "ip neigh del 10.42.2.0 dev " + dev},
	"neighbours flushed":    {VXLAN: "ip neigh flush nud permanent dev " + dev},
	"neighbour changed":     {VXLAN: "ip neigh replace " + hop2 + " lladdr 02:00:00:00:00:99 dev " + dev},
	"neighbour reachable":   {VXLAN: "ip neigh replace 10.42.2.0 lladdr " + mac2 + " nud reachable dev " + dev},
	"neighbour added":       {VXLAN: "ip neigh add 10.42.99.0 lladdr 02:00:00:00:00:99 nud permanent dev " + dev},
	"FDB entry deleted":     {VXLAN: "bridge fdb del " + mac2 + " dev " + dev + " self"},
	"FDB entry changed":     {VXLAN: "bridge fdb replace " + mac2 + " dst 192.0.0.99 dev " + dev + " self permanent"},
	"FDB entry added":       {VXLAN: "bridge fdb append 00:00:00:00:00:00 dst 192.0.0.99 dev " + dev + " self permanent"},
	"device deleted":        {VXLAN: "ip link del " + dev},
	"device set down":       {VXLAN: "ip link set " + dev + " down"},
	"device renamed":        {VXLAN: "ip link set " + dev + " down; ip link set " + dev + " name other; ip link del other"},
	"device replaced":       {VXLAN: "until ip link del " + dev + " && ip link add " + dev + " type vxlan id 7 dstport 4789; do :; done"},
	"learning on":           {VXLAN: "ip link set " + dev + " type vxlan learning"},
	"MTU changed":           {VXLAN: "ip link set " + dev + " mtu 1300"},
	"MAC changed":           {VXLAN: "ip link set " + dev + " address 02:00:00:00:00:99"},
	"addresses flushed":     {VXLAN: "ip addr flush dev " + dev},
	"address added":         {VXLAN: "ip addr add 10.42.77.1/24 dev " + dev},
}

// TestPeersRepair damages the entries of peers while brink does not run, as leftovers
// of a crash may look, and again behind its back while its next tick is a day
// away.
func TestPeersRepair(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := testnet.DualStack
			nodes := cluster(t, s, backend, backend)
			testnet.Meet(t, nodes...)
			node, want := nodes[0], entriesOf(t, nodes[0].NS)
			repaired := func() {
				t.Helper()
				got := ""
				defer func() {
					if t.Failed() {
						t.Logf("got\n%s\nwant\n%s", got, want)
					}
				}()
				testnet.Eventually(t, "repaired", func() bool { got = entriesOf(t, node.NS); return got == want })
			}
			for name, commands := range damages {
				if commands[backend] == "" {
					continue
				}
				t.Run(name, func(t *testing.T) {
					node.stop()
					node.Sh(t, commands[backend])
					if entriesOf(t, node.NS) == want {
						t.Error("this is no damage")
					}
					node.run(t)
					introduce(nodes...)
					repaired()
					node.Sh(t, commands[backend])
					repaired()
				})
				t.Cleanup(node.stop)
			}
			testnet.Meet(t, nodes...)
		})
	}
}

// TestNoneRemovesLeftovers: with this backend others do it, and what brink left would hinder them.
func TestNoneRemovesLeftovers(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, backend, backend)
			testnet.Meet(t, nodes...)
			n := nodes[0]
			n.stop()
			n.Sh(t, "ip route add 10.99.0.0/16 via 192.0.0.2 proto static")
			n.cfg.Backend, n.cfg.Underlay, n.cfg.Linger = None, nil, time.Hour
			n.run(t)
			if got := entriesOf(t, n.NS); got != "" {
				t.Errorf("left:\n%s", got)
			}
			if got := n.Sh(t, "ip route show 10.99.0.0/16"); !strings.Contains(got, "via 192.0.0.2") {
				t.Errorf("somebody's route is %q", got)
			}
		})
	}
}

// TestRemove takes everything of peers away, and that is nothing to warn of.
func TestRemove(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, testnet.DualStack, backend, backend)
			testnet.Meet(t, nodes...)
			n := nodes[0]
			n.stop()
			var logged strings.Builder
			log := slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
			testnet.Inside(t, n.NS, func() error {
				return errors.Join(Remove(DefaultDevice, log), Remove(DefaultDevice, log))
			})
			if got := entriesOf(t, n.NS); got != "" || logged.Len() > 0 {
				t.Errorf("left:\n%s\nlogged:\n%s", got, logged.String())
			}
		})
	}
}

// TestUnderlayChange gives a node another address. Its peers hear of it, and none
// restarts.
func TestUnderlayChange(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := testnet.DualStack
			nodes := cluster(t, s, backend, backend, backend)
			testnet.Meet(t, nodes...)
			moved := nodes[1]
			moved.Sh(t, "ip addr del 192.0.0.2/24 dev eth0; ip addr add 192.0.0.22/24 dev eth0; ip addr del 2001:db8::2/64 dev eth0; ip addr add 2001:db8::22/64 dev eth0 nodad")
			testnet.Eventually(t, "the loss is reported", func() bool {
				err := moved.err()
				return err != nil && strings.Contains(err.Error(), "no link of this node has its address 192.0.0.2: peers stay as they are")
			})
			moved.cfg.Underlay = testaddr.Addrs("192.0.0.22", "2001:db8::22")
			moved.setUnderlay(moved.cfg.Underlay)
			introduce(nodes...)
			testnet.Meet(t, nodes...)
			for _, n := range nodes {
				testnet.Eventually(t, "no warnings", func() bool { return n.err() == nil })
				if got := entriesOf(t, n.NS); strings.Contains(got, "192.0.0.2\n") || strings.Contains(got, "192.0.0.2 ") {
					t.Errorf("the old address stays:\n%s", got)
				}
			}
		})
	}
}

// TestAddressBack: a link that loses its addresses for a while, as with a DHCP
// server that is slow, gets all back when they return.
func TestAddressBack(t *testing.T) {
	t.Parallel()
	s := testnet.AllStacks["IPv4"]
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, backend, backend)
			testnet.Meet(t, nodes...)
			want := entriesOf(t, nodes[0].NS)
			nodes[0].Sh(t, "ip addr flush dev eth0; sleep 0.3")
			nodes[0].Sh(t, "ip addr add 192.0.0.1/24 dev eth0")
			testnet.Eventually(t, "restored", func() bool { return entriesOf(t, nodes[0].NS) == want && nodes[0].err() == nil })
			testnet.Meet(t, nodes...)
		})
	}
}

// TestRouter has nodes on two segments.
func TestRouter(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := testnet.DualStack
			router := testnet.EnterSegment(t)
			testnet.AddBridge(t, "segment1")
			testnet.Sh(t, router, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
			var nodes []*testNode
			for n := 1; n <= 3; n++ {
				segment := n / 2 // node 1 is alone
				if gateways := s.OfUnderlay(fmt.Sprintf("192.0.%d.254", segment), fmt.Sprintf("2001:db8:%d::254", segment)); n != 2 {
					bridge := testnet.Up(t, fmt.Sprintf("segment%d", segment))
					for _, a := range s.OnSegment(segment, 254) {
						testnet.Must(t, testnet.AddAddr(bridge, a))
					}
					nodes = append(nodes, newNode(t, s, segment, n, backend, gateways...))
				} else {
					nodes = append(nodes, newNode(t, s, segment, n, backend, gateways...))
				}
				nodes[n-1].run(t)
			}
			introduce(nodes...)
			testnet.Meet(t, nodes[1:]...)
			if backend == VXLAN {
				testnet.Meet(t, nodes...)
				return
			}
			want := `node n2: its address 192.0.1.2 is not on a segment of this node (the route leads through 192.0.0.254), so host-gw cannot reach its pods: use the backend vxlan
node n2: its address 2001:db8:1::2 is not on a segment of this node (the route leads through 2001:db8::254), so host-gw cannot reach its pods: use the backend vxlan
node n3: its address 192.0.1.3 is not on a segment of this node (the route leads through 192.0.0.254), so host-gw cannot reach its pods: use the backend vxlan
node n3: its address 2001:db8:1::3 is not on a segment of this node (the route leads through 2001:db8::254), so host-gw cannot reach its pods: use the backend vxlan`
			testnet.Eventually(t, "refused", func() bool { return nodes[0].err() != nil })
			if got := nodes[0].err().Error(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got := entriesOf(t, nodes[0].NS); got != "" {
				t.Errorf("routes that lead nowhere:\n%s", got)
			}
		})
	}
}

// TestForeignRoute: somebody else has a route to a peer's pods.
func TestForeignRoute(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	nodes := cluster(t, s, VXLAN)
	node := nodes[0]
	node.Sh(t, "ip route add 10.42.2.0/24 via 192.0.0.9 proto static; ip -6 route add fd42:0:0:2::/64 via 2001:db8::9 metric 5")
	node.setPeers([]Peer{{Name: "n2", CIDRs: s.NodeCIDRs(2), Underlay: testaddr.Addrs("192.0.0.2", "2001:db8::2")}})
	want := `node n2: there is a route to its pods' range 10.42.2.0/24 by somebody else (protocol static), which stays: remove it
node n2: there is a route to its pods' range fd42:0:0:2::/64 by somebody else (protocol boot), which stays: remove it`
	testnet.Eventually(t, "reported", func() bool { err := node.err(); return err != nil && err.Error() == want })
	if got := node.Sh(t, "ip route show 10.42.2.0/24"); strings.TrimSpace(got) != "10.42.2.0/24 via 192.0.0.9 dev eth0 proto static" {
		t.Errorf("the route is %s", got)
	}
	node.Sh(t, "ip route del 10.42.2.0/24 via 192.0.0.9; ip -6 route del fd42:0:0:2::/64 metric 5")
	testnet.Eventually(t, "ours in place", func() bool {
		got := entriesOf(t, node.NS)
		return node.err() == nil && strings.Contains(got, "route 10.42.2.0/24 via 10.42.2.0") && strings.Contains(got, "route fd42:0:0:2::/64 via fe80::")
	})
	// One that comes later cannot take the place of ours, and ours never moves aside.
	node.Sh(t, "! ip route add 10.42.2.0/24 via 192.0.0.9 proto static 2>&1")
}
