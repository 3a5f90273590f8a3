package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeNode is a peer keeper on a fake kernel. Its node's number is 1.
func fakeNode(backend Backend, cidrs ...string) (*peerKeeper, *fakeKernel) {
	if len(cidrs) == 0 {
		cidrs = []string{"10.42.1.0/24"}
	}
	cfg := Config{ClusterCIDRs: prefixes("10.42.0.0/16", "fd42::/56"), NodeCIDRs: prefixes(cidrs...), Backend: backend, Underlay: addrs("192.0.2.1", "2001:db8::1")}
	k, kernel := newPeerKeeper(cfg.withDefaults(), func() {}), newFakeKernel()
	k.kernel, k.probe.settled, k.linger = kernel, true, 0
	return k, kernel
}

// look reconciles as the loop would, without a probe.
func look(k *peerKeeper) error {
	k.lookIfUnsure()
	return k.err()
}

func peer(n int, backend Backend) Peer {
	return Peer{
		Name: fmt.Sprintf("n%d", n), Backend: backend,
		CIDRs: prefixes(fmt.Sprintf("10.42.%d.0/24", n)), Underlay: addrs(fmt.Sprintf("192.0.2.%d", n)),
	}
}

// macOf is the MAC address of a node's end of the tunnel, by which FDB entries are
// in order.
func macOf(n int) string { return vtepMAC(peer(n, "").CIDRs).String() }

// TestDiff goes from one list of peers to another, and names the changes in
// their order.
func TestDiff(t *testing.T) {
	t.Parallel()
	twice := peer(3, VXLAN)
	twice.CIDRs = peer(2, "").CIDRs
	moved := peer(2, VXLAN)
	moved.Underlay = addrs("192.0.2.22")
	recut := peer(2, VXLAN)
	recut.CIDRs = peer(9, "").CIDRs
	for _, tt := range []struct {
		name         string
		own          Backend
		before, then []Peer
		want         string
	}{
		{"first peer", VXLAN, nil, []Peer{peer(2, VXLAN)}, `
make link brink-vxlan
adjust link: its addresses are "", must be "10.42.1.0/32", it believes router advertisements, but no node is a router of another, it is down
set fdb MAC2 dst 192.0.2.2 dev 7
set neigh 10.42.2.0 lladdr MAC2 dev 7
add route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink`},
		{"one more", VXLAN, []Peer{peer(2, "")}, []Peer{peer(2, ""), peer(3, "")}, `
set fdb MAC3 dst 192.0.2.3 dev 7
set neigh 10.42.3.0 lladdr MAC3 dev 7
add route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink`},
		{"the same in another order", VXLAN, []Peer{peer(2, ""), peer(3, "")}, []Peer{peer(3, ""), peer(2, "")}, ``},
		{"one gone", VXLAN, []Peer{peer(2, ""), peer(3, "")}, []Peer{peer(2, "")}, `
delete route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete neigh 10.42.3.0 dev 7
delete fdb MAC3 dst 192.0.2.3 dev 7`},
		{"replaced by another", VXLAN, []Peer{peer(2, "")}, []Peer{peer(3, "")}, `
set fdb MAC3 dst 192.0.2.3 dev 7
set neigh 10.42.3.0 lladdr MAC3 dev 7
add route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
delete neigh 10.42.2.0 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
		{"last gone", VXLAN, []Peer{peer(2, "")}, nil, `
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
remove link brink-vxlan`},
		{"other address", VXLAN, []Peer{peer(2, "")}, []Peer{moved}, `
set fdb MAC2 dst 192.0.2.22 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
		{"other pods", VXLAN, []Peer{peer(2, "")}, []Peer{recut}, `
set fdb MAC9 dst 192.0.2.2 dev 7
set neigh 10.42.9.0 lladdr MAC9 dev 7
add route 10.42.9.0/24 via 10.42.9.0 dev 7 onlink
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
delete neigh 10.42.2.0 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
		{"range given to the next node", VXLAN, []Peer{peer(2, "")}, []Peer{twice}, `
set fdb MAC2 dst 192.0.2.3 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
		{"host-gw", HostGW, nil, []Peer{peer(2, HostGW)}, `
add route 10.42.2.0/24 via 192.0.2.2 dev 2`},
		{"host-gw gone", HostGW, []Peer{peer(2, HostGW)}, nil, `
delete route 10.42.2.0/24 via 192.0.2.2 dev 2`},
		{"peer changes to host-gw", HostGW, []Peer{peer(2, VXLAN)}, []Peer{peer(2, HostGW)}, `
replace route 10.42.2.0/24 via 192.0.2.2 dev 2
remove link brink-vxlan`},
		{"one of two changes to host-gw", HostGW, []Peer{peer(2, VXLAN), peer(3, VXLAN)}, []Peer{peer(2, HostGW), peer(3, VXLAN)}, `
replace route 10.42.2.0/24 via 192.0.2.2 dev 2
delete neigh 10.42.2.0 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
		{"peer changes to vxlan", HostGW, []Peer{peer(2, HostGW)}, []Peer{peer(2, VXLAN)}, `
make link brink-vxlan
adjust link: its addresses are "", must be "10.42.1.0/32", it believes router advertisements, but no node is a router of another, it is down
set fdb MAC2 dst 192.0.2.2 dev 7
set neigh 10.42.2.0 lladdr MAC2 dev 7
replace route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink`},
		{"peer without a backend", VXLAN, []Peer{peer(2, "")}, []Peer{peer(2, None)}, `
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
remove link brink-vxlan`},
		{"host-gw is not ours", VXLAN, nil, []Peer{peer(2, HostGW)}, `
make link brink-vxlan
adjust link: its addresses are "", must be "10.42.1.0/32", it believes router advertisements, but no node is a router of another, it is down
set fdb MAC2 dst 192.0.2.2 dev 7
set neigh 10.42.2.0 lladdr MAC2 dev 7
add route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(tt.own)
			k.setPeers(tt.before)
			must(t, look(k))
			kernel.log = nil
			k.setPeers(tt.then)
			must(t, look(k))
			want := strings.TrimSpace(tt.want)
			for n := range 10 {
				want = strings.ReplaceAll(want, fmt.Sprintf("MAC%d", n), macOf(n))
			}
			if got := kernel.changes(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			k.beUnsure()
			must(t, look(k))
			if got := kernel.changes(); got != "" {
				t.Errorf("a look that finds nothing changes\n%s", got)
			}
		})
	}
}

// TestRefusedPeers: each problem has its own words, and the other peers are
// served.
func TestRefusedPeers(t *testing.T) {
	t.Parallel()
	with := func(n int, change func(*Peer)) Peer {
		p := peer(n, "")
		change(&p)
		return p
	}
	for _, tt := range []struct {
		name string
		own  Backend
		peer Peer
		want string
	}{
		{"everything", VXLAN, with(2, func(p *Peer) { p.CIDRs = prefixes("0.0.0.0/0") }), "node n2: its pods' range 0.0.0.0/0 is not within the cluster's [10.42.0.0/16 fd42::/56]: not routed"},
		{"no prefix", VXLAN, with(2, func(p *Peer) { p.CIDRs = prefixes("10.42.2.1/24") }), "node n2: its pods' range 10.42.2.1/24 is not within the cluster's [10.42.0.0/16 fd42::/56]: not routed"},
		{"ours", VXLAN, with(2, func(p *Peer) { p.CIDRs = prefixes("10.42.0.0/23") }), "node n2: its pods' range 10.42.0.0/23 is this node's: not routed"},
		{"another's", VXLAN, with(2, func(p *Peer) { p.CIDRs = prefixes("10.42.200.0/24") }), "node n2: its pods' range 10.42.200.0/24 is node a's too: not routed"},
		{"no address", VXLAN, with(2, func(p *Peer) { p.Underlay = nil }), "node n2: it has no address of the family of this node's address 192.0.2.1, by which the tunnel goes: give it one"},
		{"our address", VXLAN, with(2, func(p *Peer) { p.Underlay = addrs("192.0.2.1") }), "node n2: its address 192.0.2.1 is this node's own"},
		{"other family first", VXLAN, with(2, func(p *Peer) { p.Underlay = addrs("2001:db8::2", "192.0.2.2") }),
			"node n2: its first address 2001:db8::2 and this node's 192.0.2.1 are of different families, and the tunnel goes by the first: give both nodes their addresses in one order"},
		{"router", HostGW, with(66, func(*Peer) {}), "node n66: its address 192.0.2.66 is not on a segment of this node (the way leads through 192.0.2.254), so host-gw cannot reach its pods: use the backend vxlan"},
		{"modem", HostGW, with(67, func(*Peer) {}), "node n67: its address 192.0.2.67 is not on a segment of this node (the way leads through wwan0, which has two ends only), so host-gw cannot reach its pods: use the backend vxlan"},
		{"no way", HostGW, with(68, func(*Peer) {}), "node n68: its address 192.0.2.68 is not on a segment of this node (there is no route to it: network is unreachable), so host-gw cannot reach its pods: use the backend vxlan"},
		{"itself", HostGW, with(69, func(*Peer) {}), "node n69: its address 192.0.2.69 is not on a segment of this node (it is this node's own), so host-gw cannot reach its pods: use the backend vxlan"},
		{"other family", HostGW, with(2, func(p *Peer) { p.CIDRs = prefixes("fd42:0:0:2::/64") }), "node n2: it has no address of the family of its pods' range fd42:0:0:2::/64, which host-gw needs: use the backend vxlan"},
		{"route by others", HostGW, with(70, func(*Peer) {}), "node n70: there is a route to its pods' range 10.42.70.0/24 by somebody else (protocol static), which stays: remove it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(tt.own)
			kernel.answers = map[netip.Addr]answer{
				netip.MustParseAddr("192.0.2.66"): {link: link{index: 2, carries: true}, gateway: netip.MustParseAddr("192.0.2.254")},
				netip.MustParseAddr("192.0.2.67"): {link: link{index: 3, name: "wwan0"}},
				netip.MustParseAddr("192.0.2.68"): {},
				netip.MustParseAddr("192.0.2.69"): {link: link{index: 1}, local: true},
			}
			good := peer(200, "")
			good.Name = "a"
			if tt.name == "route by others" {
				kernel.has.foreign = map[netip.Prefix]int{netip.MustParsePrefix("10.42.70.0/24"): unix.RTPROT_STATIC}
			}
			k.setPeers([]Peer{tt.peer, good})
			if got := look(k); got == nil || got.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", got, tt.want)
			}
			if _, ok := kernel.has.routes[wayTo(good.CIDRs[0])]; !ok {
				t.Error("the other peer has no route")
			}
			k.setPeers([]Peer{good})
			kernel.has.foreign = nil
			if got := look(k); got != nil {
				t.Errorf("still warns %v", got)
			}
		})
	}
}

// TestFailures: a change that fails leaves what still works, and is made up for.
func TestFailures(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	moved := peer(2, "")
	moved.Underlay = addrs("192.0.2.22")
	for _, tt := range []struct {
		name, fail   string
		before, then []Peer
		want         string // the changes
	}{
		{"FDB entry", "set fdb", []Peer{peer(2, "")}, []Peer{peer(3, "")}, `
set fdb MAC3 dst 192.0.2.3 dev 7 FAILS
set neigh 10.42.3.0 lladdr MAC3 dev 7
add route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
delete neigh 10.42.2.0 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
		{"FDB entry of a peer that has moved", "set fdb", []Peer{peer(2, ""), peer(3, "")}, []Peer{moved}, `
set fdb MAC2 dst 192.0.2.22 dev 7 FAILS
delete route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete neigh 10.42.3.0 dev 7
delete fdb MAC3 dst 192.0.2.3 dev 7`},
		{"route that shall go", "delete route 10.42.2", []Peer{peer(2, ""), peer(3, ""), peer(4, "")}, []Peer{peer(4, "")}, `
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink FAILS
delete route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete neigh 10.42.3.0 dev 7
delete fdb MAC3 dst 192.0.2.3 dev 7`},
		{"neighbour", "set neigh", []Peer{peer(2, "")}, []Peer{peer(3, "")}, `
set fdb MAC3 dst 192.0.2.3 dev 7
set neigh 10.42.3.0 lladdr MAC3 dev 7 FAILS
add route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
delete neigh 10.42.2.0 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
		{"one of two routes", "route 10.42.3", []Peer{peer(2, "")}, []Peer{peer(2, ""), peer(3, ""), peer(4, "")}, `
set fdb MAC4 dst 192.0.2.4 dev 7
set fdb MAC3 dst 192.0.2.3 dev 7
set neigh 10.42.3.0 lladdr MAC3 dev 7
set neigh 10.42.4.0 lladdr MAC4 dev 7
add route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink FAILS
add route 10.42.4.0/24 via 10.42.4.0 dev 7 onlink`},
		{"direct route instead of the tunnel", "replace route", []Peer{peer(2, VXLAN)}, []Peer{peer(2, HostGW)}, `
replace route 10.42.2.0/24 via 192.0.2.2 dev 2 FAILS`},
		{"device", "make link", []Peer{peer(2, HostGW)}, []Peer{peer(2, HostGW), peer(3, VXLAN), peer(4, HostGW)}, `
make link brink-vxlan FAILS
add route 10.42.4.0/24 via 192.0.2.4 dev 2`},
		{"device instead of a direct route", "make link", []Peer{peer(2, HostGW)}, []Peer{peer(2, VXLAN)}, `
make link brink-vxlan FAILS`},
		{"device not removed", "remove link", []Peer{peer(2, VXLAN)}, nil, `
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
remove link brink-vxlan FAILS`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(HostGW)
			if tt.before[0].Backend == "" {
				k, kernel = fakeNode(VXLAN)
			}
			k.setPeers(tt.before)
			must(t, look(k))
			kernel.log, kernel.fail = nil, map[string]error{tt.fail: broken}
			k.setPeers(tt.then)
			if err := look(k); err == nil || !strings.Contains(err.Error(), "broken") {
				t.Errorf("got %v", err)
			}
			want := strings.TrimSpace(tt.want)
			for n := range 10 {
				want = strings.ReplaceAll(want, fmt.Sprintf("MAC%d", n), macOf(n))
			}
			if got := kernel.changes(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			kernel.fail = nil
			must(t, look(k)) // no event: it was not forgotten
			same, fresh := fakeNode(k.cfg.Backend)
			fresh.next = kernel.next - 1
			same.setPeers(tt.then)
			must(t, look(same))
			if got, want := kernel.has.text(), fresh.has.text(); got != want {
				t.Errorf("in the end\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestDeviceDiff changes one property of a device behind brink's back.
func TestDeviceDiff(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		reason string
		change func(*device)
		remade bool
	}{
		{"its network identifier is 9, must be 1", func(d *device) { d.vni = 9 }, true},
		{"its UDP port is 4789, must be 8472", func(d *device) { d.port = 4789 }, true},
		{"its local address is 192.0.2.9, must be 192.0.2.1", func(d *device) { d.local = netip.MustParseAddr("192.0.2.9") }, true},
		{"it is carried by link number 3, must be by 2", func(d *device) { d.parent = 3 }, true},
		{"it learns from what it receives, but peers are told to it", func(d *device) { d.learning = true }, true},
		{"it floods what it has no peer for", func(d *device) { d.group = true }, true},
		{"its MAC address is 00:00:00:00:00:00, must be " + macOf(1), func(d *device) { d.mac = mac{} }, false},
		{"its MTU is 9, must be 1450", func(d *device) { d.mtu = 9 }, false},
		{`its addresses are "10.42.9.0/32", must be "10.42.1.0/32"`, func(d *device) { d.addrs = "10.42.9.0/32" }, false},
		{"rp_filter is strict, but ways between nodes need not be the same in both directions", func(d *device) { d.strict = true }, false},
		{"it believes router advertisements, but no node is a router of another", func(d *device) { d.hears = true }, false},
		{"it is down", func(d *device) { d.up = false }, false},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(VXLAN)
			k.setPeers([]Peer{peer(2, "")})
			must(t, look(k))
			want := kernel.has.text()
			d := *kernel.has.device
			tt.change(&d)
			wanted := *kernel.has.device
			if got := wanted.remake(d); (got == tt.reason) != tt.remade {
				t.Errorf("made anew because %q", got)
			}
			if got := wanted.adjust(d); !tt.remade && !slices.Equal(got, []string{tt.reason}) {
				t.Errorf("changed because %q", got)
			}
			kernel.has.device, kernel.log = &d, nil
			k.beUnsure()
			must(t, look(k))
			if got := kernel.has.text(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got := strings.Contains(kernel.changes(), "make link"); got != tt.remade {
				t.Errorf("made anew: %t, want %t", got, tt.remade)
			}
		})
	}
}

// TestUnknownPeers: nothing is known of peers yet, or of this node.
func TestUnknownPeers(t *testing.T) {
	t.Parallel()
	k, kernel := fakeNode(VXLAN)
	k.setPeers([]Peer{peer(2, "")})
	must(t, look(k))
	want := kernel.has.text()
	again, _ := fakeNode(VXLAN)
	again.kernel, kernel.log = kernel, nil
	must(t, look(again))
	again.setPeers([]Peer{peer(2, ""), peer(3, "")})
	kernel.links = nil
	if err := look(again); err == nil || err.Error() != "no link of this node has its address 192.0.2.1: peers stay as they are" {
		t.Errorf("got %v", err)
	}
	if got := kernel.has.text(); got != want || kernel.log != nil {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again.mtu != 1450 {
		t.Errorf("MTU of pods is %d", again.mtu)
	}
}

// TestLostAddress: a node of two families that has lost an address follows its
// peers by the other, and does not take down what it cannot make again. Pods that
// start meanwhile have the MTU of before.
func TestLostAddress(t *testing.T) {
	t.Parallel()
	both := func(n int, backend Backend) Peer {
		p := peer(n, backend)
		p.CIDRs = append(p.CIDRs, prefixes(fmt.Sprintf("fd42:0:0:%d::/64", n))...)
		p.Underlay = append(p.Underlay, addrs(fmt.Sprintf("2001:db8::%d", n))...)
		return p
	}
	hop3 := vtepHop(prefixes("fd42::/64")[0], vtepMAC(peer(3, "").CIDRs)).String()
	tunnel := "\nset fdb MAC3 dst 192.0.2.3 dev 7\nset neigh 10.42.3.0 lladdr MAC3 dev 7\nset neigh " + hop3 + " lladdr MAC3 dev 7" +
		"\nadd route 10.42.3.0/24 via 10.42.3.0 dev 7 onlink\nadd route fd42:0:0:3::/64 via " + hop3 + " dev 7"
	for _, tt := range []struct {
		lost    string
		backend Backend
		want    string
	}{
		{"192.0.2.1", VXLAN, tunnel},
		{"2001:db8::1", VXLAN, tunnel},
		{"192.0.2.1", HostGW, "\nadd route fd42:0:0:3::/64 via 2001:db8::3 dev 3"},
		{"2001:db8::1", HostGW, "\nadd route 10.42.3.0/24 via 192.0.2.3 dev 2"},
	} {
		t.Run(string(tt.backend)+" "+tt.lost, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(tt.backend, "10.42.1.0/24", "fd42:0:0:1::/64")
			// IPv6 goes by a link of its own, which carries more.
			own := map[netip.Addr]link{}
			for i, a := range addrs("192.0.2.1", "2001:db8::1") {
				own[a] = link{index: 2 + i, mtu: 1500 + 7500*i, name: fmt.Sprintf("eth%d", i), carries: true}
				for _, n := range []string{"2", "3"} {
					kernel.answers[netip.MustParseAddr(strings.TrimSuffix(a.String(), "1")+n)] = answer{link: own[a]}
				}
			}
			kernel.links = own
			k.setPeers([]Peer{both(2, tt.backend)})
			must(t, look(k))
			mtu := k.mtu
			delete(own, netip.MustParseAddr(tt.lost))
			for _, n := range []string{"2", "3"} {
				kernel.answers[netip.MustParseAddr(strings.TrimSuffix(tt.lost, "1")+n)] = answer{} // no way
			}
			kernel.log = nil
			k.setPeers([]Peer{both(2, tt.backend), both(3, tt.backend)})
			if err := look(k); err == nil || err.Error() != fmt.Sprintf("no link of this node has its address %s: no peer is reached by it", tt.lost) {
				t.Errorf("got %v", err)
			}
			if got, want := "\n"+kernel.changes(), strings.ReplaceAll(tt.want, "MAC3", macOf(3)); got != want {
				t.Errorf("got%s\nwant%s", got, want)
			}
			if k.mtu != mtu {
				t.Errorf("pods' MTU was %d and is %d", mtu, k.mtu)
			}
		})
	}
}

// TestIdleDeviceStays for a while, with what is on it, unless there shall be no
// network at all.
func TestIdleDeviceStays(t *testing.T) {
	t.Parallel()
	k, kernel := fakeNode(HostGW)
	k.linger = time.Hour
	k.setPeers([]Peer{peer(2, VXLAN)})
	must(t, look(k))
	kernel.log = nil
	k.setPeers([]Peer{peer(2, HostGW)})
	must(t, look(k))
	if got := kernel.changes(); got != "replace route 10.42.2.0/24 via 192.0.2.2 dev 2" {
		t.Errorf("at once\n%s", got)
	}
	k.setPeers([]Peer{peer(2, VXLAN)})
	must(t, look(k))
	if got := kernel.changes(); got != "replace route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink" || !k.idle.IsZero() {
		t.Errorf("needed again\n%s", got)
	}
	k.setPeers(nil)
	must(t, look(k))
	k.idle = k.idle.Add(-time.Hour)
	k.beUnsure()
	must(t, look(k))
	if got, want := kernel.changes(), "delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink\nremove link brink-vxlan"; got != want {
		t.Errorf("an hour later\n%s\nwant\n%s", got, want)
	}
}

// TestLooksOnlyWhenUnsure: a tick without an event asks the kernel nothing.
func TestLooksOnlyWhenUnsure(t *testing.T) {
	t.Parallel()
	k, kernel := fakeNode(VXLAN)
	k.setPeers([]Peer{peer(2, "")})
	must(t, look(k))
	kernel.fail = map[string]error{"look": errors.New("asked")}
	must(t, look(k))
	if k.setUnderlay(addrs("192.0.2.1", "2001:db8::1")) || k.setPeers([]Peer{peer(2, "")}) {
		t.Error("what is as it was is taken for news")
	}
	must(t, look(k))
	if !k.setPeers([]Peer{peer(2, HostGW)}) || look(k) == nil {
		t.Error("news are overlooked")
	}
	k.retry = false
	k.warnings = nil
	k.looked = k.looked.Add(-fullLookEvery)
	if look(k) == nil {
		t.Error("never looks again")
	}
}

func TestBetween(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ own, peer, want Backend }{
		{VXLAN, VXLAN, VXLAN}, {VXLAN, HostGW, VXLAN}, {HostGW, VXLAN, VXLAN}, {HostGW, HostGW, HostGW},
		{VXLAN, "", VXLAN}, {HostGW, "", HostGW},
		{None, VXLAN, None}, {HostGW, None, None}, {None, "", None},
	} {
		if got := between(tt.own, tt.peer); got != tt.want {
			t.Errorf("between %s and %q: %s, want %s", tt.own, tt.peer, got, tt.want)
		}
		if back := between(tt.peer, tt.own); tt.peer != "" && back != tt.want {
			t.Errorf("between %q and %s: %s, want %s", tt.peer, tt.own, back, tt.want)
		}
	}
}

func TestParseBackend(t *testing.T) {
	t.Parallel()
	for _, b := range []Backend{VXLAN, HostGW, None} {
		if got, err := ParseBackend(string(b)); err != nil || got != b {
			t.Errorf("%s: %s, %v", b, got, err)
		}
	}
	if _, err := ParseBackend("wireguard"); err == nil || err.Error() != `network backend "wireguard" is none of vxlan, host-gw, none` {
		t.Errorf("got %v", err)
	}
}

// TestVTEPMAC: every node computes it of every other, in every version of brink.
func TestVTEPMAC(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ want, cidrs string }{
		{"3e:7c:0d:5e:bb:fb", "10.42.1.0/24"},
		{"3e:7c:0d:5e:bb:fb", "10.42.1.0/24 fd42:0:0:1::/64"},
		{"3e:7c:0d:5e:bb:fb", "fd42:0:0:1::/64 10.42.1.0/24"},
	} {
		if got := vtepMAC(prefixes(strings.Fields(tt.cidrs)...)).String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.cidrs, got, tt.want)
		}
	}
	if got := vtepHop(prefixes("fd42::/64")[0], vtepMAC(prefixes("10.42.1.0/24"))).String(); got != "fe80::3c7c:dff:fe5e:bbfb" {
		t.Errorf("next hop is %s", got)
	}
	if a := vtepMAC(prefixes("fd42::/64")); a[0]&3 != 2 {
		t.Errorf("%s is not a local unicast address", a)
	}
}
