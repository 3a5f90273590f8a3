package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"brink/internal/testaddr"
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
		ClusterCIDRs: testaddr.Prefixes("10.42.0.0/16", "fd42::/56"), NodeCIDRs: testaddr.Prefixes(cidrs...),
		Backend: backend, Underlay: testaddr.Addrs("192.0.2.1", "2001:db8::1"),
		Device: DefaultDevice, Port: DefaultPort, VNI: DefaultVNI,
	}
}

// reconcile does it as the loop would, without a probe.
func reconcile(k *Overlay) error {
	k.reconcileIfNeeded()
	if len(k.warnings) == 0 {
		return nil
	}
	return errors.New(strings.Join(k.warnings, "\n"))
}

func peer(n int, backend Backend) Peer {
	return Peer{
		Name: fmt.Sprintf("n%d", n), Backend: backend,
		CIDRs: testaddr.Prefixes(fmt.Sprintf("10.42.%d.0/24", n)), Underlay: testaddr.Addrs(fmt.Sprintf("192.0.2.%d", n)),
	}
}

// peerAt is a peer with another address.
func peerAt(n int, addr string) Peer {
	p := peer(n, "")
	p.Underlay = testaddr.Addrs(addr)
	return p
}

// peerWith is a peer with the pods' range of another number.
func peerWith(n, pods int) Peer {
	p := peer(n, VXLAN)
	p.CIDRs = peer(pods, "").CIDRs
	return p
}

// withMACs puts MAC addresses in the place of MAC0 to MAC9.
func withMACs(text string) string {
	text = strings.TrimSpace(text)
	for n := range 10 {
		text = strings.ReplaceAll(text, fmt.Sprintf("MAC%d", n), macOf(n))
	}
	return text
}

// macOf is the MAC address of a node's end of the tunnel, by which FDB entries are
// in order.
func macOf(n int) string { return vtepMAC(peer(n, "").CIDRs).String() }

var diffs = []struct {
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
	{"other address", VXLAN, []Peer{peer(2, "")}, []Peer{peerAt(2, "192.0.2.22")}, `
set fdb MAC2 dst 192.0.2.22 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
	{"other pods", VXLAN, []Peer{peer(2, "")}, []Peer{peerWith(2, 9)}, `
set fdb MAC9 dst 192.0.2.2 dev 7
set neigh 10.42.9.0 lladdr MAC9 dev 7
add route 10.42.9.0/24 via 10.42.9.0 dev 7 onlink
delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink
delete neigh 10.42.2.0 dev 7
delete fdb MAC2 dst 192.0.2.2 dev 7`},
	{"range given to the next node", VXLAN, []Peer{peer(2, "")}, []Peer{peerWith(3, 2)}, `
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
}

// TestDiff goes from one list of peers to another, and names the changes in
// their order.
func TestDiff(t *testing.T) {
	t.Parallel()
	for _, tt := range diffs {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(tt.own)
			k.desired.SetPeers(tt.before)
			testnet.Must(t, reconcile(k))
			kernel.log = nil
			k.desired.SetPeers(tt.then)
			testnet.Must(t, reconcile(k))
			if got, want := kernel.changes(), withMACs(tt.want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			k.markDirty()
			testnet.Must(t, reconcile(k))
			if got := kernel.changes(); got != "" {
				t.Errorf("a comparison that finds nothing changes\n%s", got)
			}
		})
	}
}

// TestUnknownPeers: nothing is known of peers yet, or of this node.
func TestUnknownPeers(t *testing.T) {
	t.Parallel()
	k, kernel := fakeNode(VXLAN)
	k.desired.SetPeers([]Peer{peer(2, "")})
	testnet.Must(t, reconcile(k))
	want := kernel.has.text()
	again := onKernel(kernel, 0, VXLAN)
	kernel.log = nil
	testnet.Must(t, reconcile(again))
	again.desired.SetPeers([]Peer{peer(2, ""), peer(3, "")})
	kernel.links = nil
	if err := reconcile(again); err == nil || err.Error() != "no link of this node has its address 192.0.2.1: peers stay as they are" {
		t.Errorf("got %v", err)
	}
	if got := kernel.has.text(); got != want || kernel.log != nil {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if again.podMTU != 1450 {
		t.Errorf("MTU of pods is %d", again.podMTU)
	}
}

// both is a peer with addresses of both families.
func both(n int, backend Backend) Peer {
	p := peer(n, backend)
	p.CIDRs = append(p.CIDRs, testaddr.Prefixes(fmt.Sprintf("fd42:0:0:%d::/64", n))...)
	p.Underlay = append(p.Underlay, testaddr.Addrs(fmt.Sprintf("2001:db8::%d", n))...)
	return p
}

// twoLinks gives IPv6 a link of its own, which carries more, and returns the links of
// the node's addresses, which the test may change.
func (f *fakeKernel) twoLinks() map[netip.Addr]link {
	f.links = map[netip.Addr]link{}
	for i, a := range testaddr.Addrs("192.0.2.1", "2001:db8::1") {
		f.links[a] = link{index: 2 + i, mtu: 1500 + 7500*i, name: fmt.Sprintf("eth%d", i), broadcast: true}
		for _, n := range []string{"2", "3"} {
			f.paths[netip.MustParseAddr(strings.TrimSuffix(a.String(), "1")+n)] = path{link: f.links[a]}
		}
	}
	return f.links
}

// TestLostAddress: a node of two families that has lost an address follows its
// peers by the other, and does not take down what it cannot make again. Pods that
// start meanwhile keep their MTU.
func TestLostAddress(t *testing.T) {
	t.Parallel()
	hop3 := vtepHop(testaddr.Prefixes("fd42::/64")[0], vtepMAC(peer(3, "").CIDRs)).String()
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
			own := kernel.twoLinks()
			k.desired.SetPeers([]Peer{both(2, tt.backend)})
			testnet.Must(t, reconcile(k))
			mtu := k.podMTU
			delete(own, netip.MustParseAddr(tt.lost))
			for _, n := range []string{"2", "3"} {
				kernel.paths[netip.MustParseAddr(strings.TrimSuffix(tt.lost, "1")+n)] = path{} // no way
			}
			kernel.log = nil
			k.desired.SetPeers([]Peer{both(2, tt.backend), both(3, tt.backend)})
			if err := reconcile(k); err == nil || err.Error() != fmt.Sprintf("no link of this node has its address %s: no peer is reached by it", tt.lost) {
				t.Errorf("got %v", err)
			}
			if got, want := "\n"+kernel.changes(), strings.ReplaceAll(tt.want, "MAC3", macOf(3)); got != want {
				t.Errorf("got%s\nwant%s", got, want)
			}
			if k.podMTU != mtu {
				t.Errorf("pods' MTU was %d and is %d", mtu, k.podMTU)
			}
		})
	}
}

// TestUnusedDeviceStays for a while, with what is on it, and is removed when nothing
// else asks for a comparison.
func TestUnusedDeviceStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		kernel := newFakeKernel()
		k := onKernel(kernel, time.Minute, HostGW)
		var woken atomic.Int32
		k.wake = func() { woken.Add(1) }
		step := func(what, want string) {
			t.Helper()
			testnet.Must(t, reconcile(k))
			if got := kernel.changes(); got != want {
				t.Errorf("%s\n%s\nwant\n%s", what, got, want)
			}
		}
		k.desired.SetPeers([]Peer{peer(2, VXLAN)})
		testnet.Must(t, reconcile(k))
		kernel.log = nil
		k.desired.SetPeers([]Peer{peer(2, HostGW)})
		step("at once", "replace route 10.42.2.0/24 via 192.0.2.2 dev 2")
		time.Sleep(50 * time.Second)
		k.desired.SetPeers([]Peer{peer(2, VXLAN)})
		step("needed again", "replace route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink")
		k.desired.SetPeers(nil)
		step("no peer", "delete route 10.42.2.0/24 via 10.42.2.0 dev 7 onlink")
		time.Sleep(59 * time.Second) // from here on the first time does not count
		step("within a minute", "")
		woken.Store(0)
		time.Sleep(time.Second)
		synctest.Wait()
		if woken.Load() == 0 {
			t.Error("nobody is woken to remove it")
		}
		step("after a minute", "remove link brink-vxlan")
	})
}

// TestComparesOnlyWithReason: a tick without an event asks the kernel nothing.
func TestComparesOnlyWithReason(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k, kernel := fakeNode(VXLAN)
		k.desired.SetPeers([]Peer{peer(2, "")})
		testnet.Must(t, reconcile(k))
		kernel.fail = map[string]error{"inspect": errors.New("asked")}
		time.Sleep(fullCheckEvery - time.Second)
		testnet.Must(t, reconcile(k))
		if k.desired.SetUnderlay(testaddr.Addrs("192.0.2.1", "2001:db8::1")) || k.desired.SetPeers([]Peer{peer(2, "")}) {
			t.Error("what is as it was is taken for news")
		}
		testnet.Must(t, reconcile(k))
		if !k.desired.SetPeers([]Peer{peer(2, HostGW)}) || reconcile(k) == nil {
			t.Error("news are overlooked")
		}
		kernel.fail = nil
		testnet.Must(t, reconcile(k)) // what failed is tried again
		kernel.fail = map[string]error{"inspect": errors.New("asked")}
		testnet.Must(t, reconcile(k))
		time.Sleep(fullCheckEvery)
		if reconcile(k) == nil {
			t.Error("never compares again")
		}
	})
}
