package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"brink/network/testnet"
)

// fakeNode is an overlay on a fake kernel. Its node's number is 1.
func fakeNode(backend Backend, cidrs ...string) (*Overlay, *fakeKernel) {
	kernel := newFakeKernel()
	return onKernel(kernel, 0, backend, cidrs...), kernel
}

// onKernel is an overlay whose device outlives its last peer for a while.
func onKernel(k kernel, linger time.Duration, backend Backend, cidrs ...string) *Overlay {
	cfg := fakeConfig(backend, cidrs...)
	cfg.Linger = linger
	o := newOverlay(cfg, k, NewDesired(cfg), func() {}, slog.Default())
	o.probe.settled = true
	return o
}

func fakeConfig(backend Backend, cidrs ...string) Config {
	if len(cidrs) == 0 {
		cidrs = []string{"10.42.1.0/24"}
	}
	return Config{
		ClusterCIDRs: testnet.Prefixes("10.42.0.0/16", "fd42::/56"), NodeCIDRs: testnet.Prefixes(cidrs...),
		Backend: backend, Underlay: testnet.Addrs("192.0.2.1", "2001:db8::1"),
		Device: DefaultDevice, Port: DefaultPort, VNI: DefaultVNI,
	}
}

// look reconciles as the loop would, without a probe.
func look(k *Overlay) error {
	k.lookIfUnsure()
	if len(k.warnings) == 0 {
		return nil
	}
	return errors.New(strings.Join(k.warnings, "\n"))
}

func peer(n int, backend Backend) Peer {
	return Peer{
		Name: fmt.Sprintf("n%d", n), Backend: backend,
		CIDRs: testnet.Prefixes(fmt.Sprintf("10.42.%d.0/24", n)), Underlay: testnet.Addrs(fmt.Sprintf("192.0.2.%d", n)),
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
	moved.Underlay = testnet.Addrs("192.0.2.22")
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
			k.desired.SetPeers(tt.before)
			testnet.Must(t, look(k))
			kernel.log = nil
			k.desired.SetPeers(tt.then)
			testnet.Must(t, look(k))
			want := strings.TrimSpace(tt.want)
			for n := range 10 {
				want = strings.ReplaceAll(want, fmt.Sprintf("MAC%d", n), macOf(n))
			}
			if got := kernel.changes(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			k.beUnsure()
			testnet.Must(t, look(k))
			if got := kernel.changes(); got != "" {
				t.Errorf("a look that finds nothing changes\n%s", got)
			}
		})
	}
}

// TestFailures: a change that fails leaves what still works, and is made up for.
func TestFailures(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	moved := peer(2, "")
	moved.Underlay = testnet.Addrs("192.0.2.22")
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
			k.desired.SetPeers(tt.before)
			testnet.Must(t, look(k))
			kernel.log, kernel.fail = nil, map[string]error{tt.fail: broken}
			k.desired.SetPeers(tt.then)
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
			testnet.Must(t, look(k)) // no event: it was not forgotten
			same, fresh := fakeNode(k.cfg.Backend)
			fresh.next = kernel.next - 1
			same.desired.SetPeers(tt.then)
			testnet.Must(t, look(same))
			if got, want := kernel.has.text(), fresh.has.text(); got != want {
				t.Errorf("in the end\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestUnknownPeers: nothing is known of peers yet, or of this node.
func TestUnknownPeers(t *testing.T) {
	t.Parallel()
	k, kernel := fakeNode(VXLAN)
	k.desired.SetPeers([]Peer{peer(2, "")})
	testnet.Must(t, look(k))
	want := kernel.has.text()
	again := onKernel(kernel, 0, VXLAN)
	kernel.log = nil
	testnet.Must(t, look(again))
	again.desired.SetPeers([]Peer{peer(2, ""), peer(3, "")})
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
		p.CIDRs = append(p.CIDRs, testnet.Prefixes(fmt.Sprintf("fd42:0:0:%d::/64", n))...)
		p.Underlay = append(p.Underlay, testnet.Addrs(fmt.Sprintf("2001:db8::%d", n))...)
		return p
	}
	hop3 := vtepHop(testnet.Prefixes("fd42::/64")[0], vtepMAC(peer(3, "").CIDRs)).String()
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
			for i, a := range testnet.Addrs("192.0.2.1", "2001:db8::1") {
				own[a] = link{index: 2 + i, mtu: 1500 + 7500*i, name: fmt.Sprintf("eth%d", i), carries: true}
				for _, n := range []string{"2", "3"} {
					kernel.answers[netip.MustParseAddr(strings.TrimSuffix(a.String(), "1")+n)] = answer{link: own[a]}
				}
			}
			kernel.links = own
			k.desired.SetPeers([]Peer{both(2, tt.backend)})
			testnet.Must(t, look(k))
			mtu := k.mtu
			delete(own, netip.MustParseAddr(tt.lost))
			for _, n := range []string{"2", "3"} {
				kernel.answers[netip.MustParseAddr(strings.TrimSuffix(tt.lost, "1")+n)] = answer{} // no way
			}
			kernel.log = nil
			k.desired.SetPeers([]Peer{both(2, tt.backend), both(3, tt.backend)})
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
	kernel := newFakeKernel()
	k := onKernel(kernel, time.Hour, HostGW)
	k.desired.SetPeers([]Peer{peer(2, VXLAN)})
	testnet.Must(t, look(k))
	kernel.log = nil
	k.desired.SetPeers([]Peer{peer(2, HostGW)})
	testnet.Must(t, look(k))
	if got := kernel.changes(); got != "replace route 10.42.2.0/24 via 192.0.2.2 dev 2" {
		t.Errorf("at once\n%s", got)
	}
	k.desired.SetPeers([]Peer{peer(2, VXLAN)})
	testnet.Must(t, look(k))
	if got := kernel.changes(); got != "replace route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink" || !k.idle.IsZero() {
		t.Errorf("needed again\n%s", got)
	}
	k.desired.SetPeers(nil)
	testnet.Must(t, look(k))
	k.idle = k.idle.Add(-time.Hour)
	k.beUnsure()
	testnet.Must(t, look(k))
	if got, want := kernel.changes(), "delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink\nremove link brink-vxlan"; got != want {
		t.Errorf("an hour later\n%s\nwant\n%s", got, want)
	}
}

// TestLooksOnlyWhenUnsure: a tick without an event asks the kernel nothing.
func TestLooksOnlyWhenUnsure(t *testing.T) {
	t.Parallel()
	k, kernel := fakeNode(VXLAN)
	k.desired.SetPeers([]Peer{peer(2, "")})
	testnet.Must(t, look(k))
	kernel.fail = map[string]error{"look": errors.New("asked")}
	testnet.Must(t, look(k))
	if k.desired.SetUnderlay(testnet.Addrs("192.0.2.1", "2001:db8::1")) || k.desired.SetPeers([]Peer{peer(2, "")}) {
		t.Error("what is as it was is taken for news")
	}
	testnet.Must(t, look(k))
	if !k.desired.SetPeers([]Peer{peer(2, HostGW)}) || look(k) == nil {
		t.Error("news are overlooked")
	}
	k.retry = false
	k.warnings = nil
	k.looked = k.looked.Add(-fullLookEvery)
	if look(k) == nil {
		t.Error("never looks again")
	}
}
