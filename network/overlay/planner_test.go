package overlay

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"brink/internal/testaddr"
)

var refusals = []struct {
	name string
	own  Backend
	peer Peer
	want string
}{
	{"everything", VXLAN, with(2, func(p *Peer) { p.CIDRs = testaddr.Prefixes("0.0.0.0/0") }), "node n2: its pods' range 0.0.0.0/0 is not within the cluster's [10.42.0.0/16 fd42::/56]: not routed"},
	{"no prefix", VXLAN, with(2, func(p *Peer) { p.CIDRs = testaddr.Prefixes("10.42.2.1/24") }), "node n2: its pods' range 10.42.2.1/24 is not within the cluster's [10.42.0.0/16 fd42::/56]: not routed"},
	{"ours", VXLAN, with(2, func(p *Peer) { p.CIDRs = testaddr.Prefixes("10.42.0.0/23") }), "node n2: its pods' range 10.42.0.0/23 is this node's: not routed"},
	{"another's", VXLAN, with(2, func(p *Peer) { p.CIDRs = testaddr.Prefixes("10.42.200.0/24") }), "node n2: its pods' range 10.42.200.0/24 is node a's too: not routed"},
	{"no address", VXLAN, with(2, func(p *Peer) { p.Underlay = nil }), "node n2: it has no address of the family of this node's address 192.0.2.1, by which the tunnel goes: give it one"},
	{"our address", VXLAN, with(2, func(p *Peer) { p.Underlay = testaddr.Addrs("192.0.2.1") }), "node n2: its address 192.0.2.1 is this node's own"},
	{"other family first", VXLAN, with(2, func(p *Peer) { p.Underlay = testaddr.Addrs("2001:db8::2", "192.0.2.2") }),
		"node n2: its first address 2001:db8::2 and this node's 192.0.2.1 are of different families, and the tunnel goes by the first: give both nodes their addresses in one order"},
	{"router", HostGW, with(66, func(*Peer) {}), "node n66: its address 192.0.2.66 is not on a segment of this node (the route leads through 192.0.2.254), so host-gw cannot reach its pods: use the backend vxlan"},
	{"modem", HostGW, with(67, func(*Peer) {}), "node n67: its address 192.0.2.67 is not on a segment of this node (the route leads through wwan0, which has two ends only), so host-gw cannot reach its pods: use the backend vxlan"},
	{"no way", HostGW, with(68, func(*Peer) {}), "node n68: its address 192.0.2.68 is not on a segment of this node (there is no route to it: network is unreachable), so host-gw cannot reach its pods: use the backend vxlan"},
	{"itself", HostGW, with(69, func(*Peer) {}), "node n69: its address 192.0.2.69 is not on a segment of this node (it is this node's own), so host-gw cannot reach its pods: use the backend vxlan"},
	{"other family", HostGW, with(2, func(p *Peer) { p.CIDRs = testaddr.Prefixes("fd42:0:0:2::/64") }), "node n2: it has no address of the family of its pods' range fd42:0:0:2::/64, which host-gw needs: use the backend vxlan"},
	{"route by others", HostGW, with(70, func(*Peer) {}), "node n70: there is a route to its pods' range 10.42.70.0/24 by somebody else (protocol static), which stays: remove it"},
}

func with(n int, change func(*Peer)) Peer {
	p := peer(n, "")
	change(&p)
	return p
}

// TestRefusedPeers: each problem has its own words, and the other peers are
// served.
func TestRefusedPeers(t *testing.T) {
	t.Parallel()
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(tt.own)
			kernel.paths = map[netip.Addr]path{
				netip.MustParseAddr("192.0.2.66"): {link: link{index: 2, broadcast: true}, gateway: netip.MustParseAddr("192.0.2.254")},
				netip.MustParseAddr("192.0.2.67"): {link: link{index: 3, name: "wwan0"}},
				netip.MustParseAddr("192.0.2.68"): {},
				netip.MustParseAddr("192.0.2.69"): {link: link{index: 1}, local: true},
			}
			good := peer(200, "")
			good.Name = "a"
			if tt.name == "route by others" {
				kernel.has.foreign = map[netip.Prefix]int{netip.MustParsePrefix("10.42.70.0/24"): unix.RTPROT_STATIC}
			}
			k.desired.SetPeers([]Peer{tt.peer, good})
			if got := reconcile(k); got == nil || got.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", got, tt.want)
			}
			if _, ok := kernel.has.routes[routeTo(good.CIDRs[0])]; !ok {
				t.Error("the other peer has no route")
			}
			k.desired.SetPeers([]Peer{good})
			kernel.has.foreign = nil
			if got := reconcile(k); got != nil {
				t.Errorf("still warns %v", got)
			}
		})
	}
}
