package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"brink/internal/testaddr"
	"brink/network/testnet"
)

// serve makes Services of each family on a node, in kube-proxy's place: one with the
// pod of a node, one with a port of a node itself.
func serve(t *testing.T, n *testNode, pod, host *testNode) {
	t.Helper()
	for family, to := range map[string][2]string{"ip": {"10.43.0.7", "10.43.0.8"}, "ip6": {"fd43::7", "fd43::8"}} {
		is6 := family == "ip6"
		pick := func(list []netip.Addr) netip.AddrPort {
			for _, a := range list {
				if a.Is6() == is6 {
					return netip.AddrPortFrom(a, 8080)
				}
			}
			return netip.AddrPort{}
		}
		s := testnet.DualStack
		n.Sh(t, fmt.Sprintf("nft 'add table %[1]s service; add chain %[1]s service out { type nat hook output priority -100; }; flush chain %[1]s service out; "+
			"add rule %[1]s service out %[1]s daddr %[2]s tcp dport 8080 dnat to %[3]s; add rule %[1]s service out %[1]s daddr %[4]s tcp dport 8080 dnat to %[5]s'",
			family, to[0], pick(testaddr.Addrs(s.PodAddrs(pod.Number)...)), to[1], pick(host.cfg.Underlay)))
	}
}

// TestServicesFromTheHost: they are reached with and without a default route, from
// the same address, whoever is behind them.
func TestServicesFromTheHost(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		for _, withDefault := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, default route: %t", backend, withDefault), func(t *testing.T) {
				t.Parallel()
				s := testnet.DualStack
				testnet.EnterSegment(t)
				var gateways []string
				if withDefault {
					gateways = []string{"192.0.0.254", "2001:db8::fe"}
				}
				var nodes []*testNode
				for n := 1; n <= 2; n++ {
					node := newNode(t, s, 0, n, backend, gateways...)
					node.cfg.ServiceCIDRs = testaddr.Prefixes("10.43.0.0/16", "fd43::/112")
					node.run(t)
					nodes = append(nodes, node)
					for _, a := range node.cfg.Underlay {
						testnet.Listen(t, node.NS, netip.AddrPortFrom(a, 8080))
					}
				}
				introduce(nodes...)
				testnet.Meet(t, nodes...)
				one := nodes[0]
				for behind, want := range map[*testNode][4]string{
					one:      {"10.42.1.1", "fd42:0:0:1::1", "192.0.0.1", "2001:db8::1"},
					nodes[1]: {"10.42.1.1", "fd42:0:0:1::1", "192.0.0.1", "2001:db8::1"},
				} { // to nodes it leaves the cluster's ranges
					serve(t, one, behind, behind)
					for i, service := range []string{"10.43.0.7", "fd43::7", "10.43.0.8", "fd43::8"} {
						if got, err := testnet.Call(one.NS, service, testnet.Patience); err != nil || got != want[i] {
							t.Errorf("node %d behind %s is called from %q, want %s (%v)", behind.Number, service, got, want[i], err)
						}
					}
				}
				one.Sh(t, "ip route del 10.43.0.0/16; ip -6 route del fd43::/112")
				for _, service := range []string{"10.43.0.7", "fd43::7"} {
					testnet.Eventually(t, "the deleted route is back", func() bool {
						return strings.Contains(one.Sh(t, "ip route get "+service+" 2>&1 || true"), "dev brink0")
					})
				}
				if err := one.network.Warnings(); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestServicesOfAnEmptyNode: without a pod there is no bridge, and one is made where
// nothing else leads to Services.
func TestServicesOfAnEmptyNode(t *testing.T) {
	t.Parallel()
	for _, withDefault := range []bool{false, true} {
		t.Run(fmt.Sprintf("default route: %t", withDefault), func(t *testing.T) {
			t.Parallel()
			s := testnet.DualStack
			testnet.EnterSegment(t)
			var gateways []string
			if withDefault {
				gateways = []string{"192.0.0.254", "2001:db8::fe"}
			}
			one, two := newNode(t, s, 0, 1, VXLAN, gateways...), newNode(t, s, 0, 2, VXLAN)
			one.Sh(t, "ip link del brink0")
			for _, n := range []*testNode{one, two} {
				n.cfg.ServiceCIDRs = testaddr.Prefixes("10.43.0.0/16", "fd43::/112")
				n.run(t)
			}
			introduce(one, two)
			serve(t, one, two, two)
			for _, service := range []string{"10.43.0.7", "fd43::7"} {
				testnet.Eventually(t, "the Service is called", func() bool { _, err := testnet.Call(one.NS, service, 300*time.Millisecond); return err == nil })
			}
			if got := one.Sh(t, "ip -o link"); strings.Contains(got, "brink0") == withDefault {
				t.Errorf("links are\n%s", got)
			}
		})
	}
}

// TestServiceRoutesOfOthers: somebody's own route wins, before and after brink's; one of
// a former cluster goes; uninstalling leaves none.
func TestServiceRoutesOfOthers(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	testnet.EnterSegment(t)
	n := newNode(t, s, 0, 1, VXLAN)
	n.cfg.ServiceCIDRs = testaddr.Prefixes("10.43.0.0/16", "fd43::/112")
	n.Sh(t, "ip route add 10.43.0.0/16 via 192.0.0.9; ip route add 10.47.0.0/16 dev brink0 proto 98 metric 1073741824; ip -6 route add fd47::/112 dev brink0 proto 98 metric 1073741824")
	n.run(t)
	leads := func(to, link string) {
		t.Helper()
		if got := n.Sh(t, "ip route get "+to+" 2>&1 || true"); !strings.Contains(got, link) {
			t.Errorf("the route to %s is %s, want %s", to, got, link)
		}
	}
	leads("10.43.0.7", "via 192.0.0.9 dev eth0")
	leads("fd43::7", "dev brink0")
	leads("10.47.0.7", "unreachable")
	leads("fd47::7", "unreachable")
	n.Sh(t, "ip -6 route add fd43::/112 via 2001:db8::9; ip route add 10.43.9.0/24 via 192.0.0.9; ip route del 10.43.0.0/16 via 192.0.0.9")
	leads("fd43::7", "via 2001:db8::9 dev eth0")
	leads("10.43.9.7", "via 192.0.0.9 dev eth0")
	testnet.Eventually(t, "brink's is there when somebody's has gone", func() bool {
		signal(n.network.wake) // a route of others is no event
		return strings.Contains(n.Sh(t, "ip route get 10.43.0.7 2>&1 || true"), "dev brink0")
	})
	n.stop()
	n.Sh(t, "ip -6 route del fd43::/112 via 2001:db8::9; ip route del 10.43.9.0/24")
	testnet.Inside(t, n.NS, func() error { return errors.Join(Remove(n.cfg), Remove(n.cfg)) })
	leads("10.43.0.7", "unreachable")
	leads("fd43::7", "unreachable")
}
