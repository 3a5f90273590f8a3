package overlay

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"brink/internal/testaddr"
	"brink/network/testnet"
)

// manyPeers are n nodes in a dual-stack cluster on the segment of eth0.
func manyPeers(n int, backend Backend) []Peer {
	var peers []Peer
	for i := range n {
		i += 256 // the node itself is before these
		peers = append(peers, Peer{
			Name:     fmt.Sprintf("n%d", i),
			CIDRs:    []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64 + byte(i>>8), byte(i), 0}), 24), netip.MustParsePrefix(fmt.Sprintf("fd42:0:0:%x::/64", i))},
			Underlay: []netip.Addr{netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i))},
			Backend:  backend,
		})
	}
	return peers
}

func manyConfig(backend Backend) Config {
	return Config{
		ClusterCIDRs: testaddr.Prefixes("10.64.0.0/10", "fd42::/48"),
		NodeCIDRs:    testaddr.Prefixes("10.64.0.0/24", "fd42::/64"),
		Backend:      backend,
		Underlay:     testaddr.Addrs("198.18.0.1", "2001:db8::1"),
		Device:       DefaultDevice, Port: DefaultPort, VNI: DefaultVNI,
	}
}

// addEth0 makes a link with the node's addresses whose packets go nowhere.
func addEth0(t testing.TB) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	link := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth1"}
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(netlink.LinkAdd(link))
	check(testnet.AddAddr(link, "198.18.0.1/15"))
	check(testnet.AddAddr(link, "2001:db8::1/64"))
	check(netlink.LinkSetUp(link))
	other, err := netlink.LinkByName("eth1")
	check(err)
	check(netlink.LinkSetUp(other))
}

// wantedText is what the kernel must have for peers, written without the code under
// test.
func wantedText(peers []Peer) string {
	var lines []string
	if len(peers) == 0 {
		return ""
	}
	tunnels := false
	for _, p := range peers {
		for i, c := range p.CIDRs {
			if p.Backend == HostGW {
				lines = append(lines, fmt.Sprintf("route %s via %s dev eth0", c, p.Underlay[i]))
				continue
			}
			tunnels = true
			via, how := vtepHop(c, vtepMAC(p.CIDRs)), ""
			if c.Addr().Is4() {
				via, how = c.Addr(), " onlink"
			}
			lines = append(lines, fmt.Sprintf("route %s via %s dev brink-vxlan%s", c, via, how))
			lines = append(lines, fmt.Sprintf("neigh %s lladdr %s", via, vtepMAC(p.CIDRs)))
		}
		if p.Backend != HostGW {
			lines = append(lines, fmt.Sprintf("fdb %s dst %s", vtepMAC(p.CIDRs), p.Underlay[0]))
		}
	}
	if tunnels {
		lines = append(lines, fmt.Sprintf("link brink-vxlan vni 1 port 8472 local 198.18.0.1 parent eth0 mac %s mtu 1450 addrs 10.64.0.0/32 fd42::/128", vtepMAC(testaddr.Prefixes("10.64.0.0/24"))))
	}
	slices.Sort(lines)
	return strings.Join(append(lines, ""), "\n")
}

// TestManyPeersAtOnce adds and removes 50 peers, and changes their backends, as
// fast as it can and at random, against a running loop.
func TestManyPeersAtOnce(t *testing.T) {
	t.Parallel()
	ns := testnet.Enter(t)
	addEth0(t)
	node := &testNode{Node: &testnet.Node{NS: ns}, cfg: manyConfig(HostGW), checkEvery: 24 * time.Hour}
	node.run(t)
	all := manyPeers(50, VXLAN)
	random := rand.New(rand.NewPCG(1, 2))
	has := func() string {
		eth0, err := netlink.LinkByName("eth0")
		testnet.Must(t, err)
		n := fmt.Sprint(eth0.Attrs().Index)
		text := strings.ReplaceAll(entriesOf(t, ns), " dev "+n+"\n", " dev eth0\n")
		lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(text, " parent "+n+" ", " parent eth0 ")), "\n")
		slices.Sort(lines)
		return strings.TrimLeft(strings.Join(append(lines, ""), "\n"), "\n")
	}
	for round := range 6 {
		var peers []Peer
		for range 200 {
			peers = nil
			for _, p := range all {
				if random.IntN(2) == 0 {
					p.Backend = []Backend{VXLAN, HostGW}[random.IntN(2)]
					peers = append(peers, p)
				}
			}
			node.setPeers(peers)
			time.Sleep(time.Duration(random.IntN(2_000_000)))
		}
		switch round {
		case 3:
			peers = slices.Clone(all)
		case 4:
			peers = nil
		}
		node.setPeers(peers)
		want := wantedText(peers)
		if got := ""; !testnet.Within(func() bool { got = has(); return got == want }) {
			t.Fatalf("round %d: got\n%s\nwant\n%s", round, got, want)
		}
	}
	if err := node.err(); err != nil {
		t.Error(err)
	}
}

// BenchmarkOneMorePeer is the cost of a peer that comes and goes again beside
// others, of a comparison of all that finds nothing changed, which is done
// after a change by others and every five minutes, and of a tick with no news.
func BenchmarkOneMorePeer(b *testing.B) {
	for _, backend := range []Backend{VXLAN, HostGW} {
		for _, n := range []int{10, 100, 1000} {
			name := fmt.Sprintf("%s/%d", backend, n)
			peers := manyPeers(n+1, backend)
			benchmark(b, name+"/join-and-leave", backend, func(k *Overlay, more bool) {
				k.desired.SetPeers(peers[:n])
				if more {
					k.desired.SetPeers(peers)
				}
			})
			benchmark(b, name+"/look", backend, func(k *Overlay, first bool) {
				if first {
					k.desired.SetPeers(peers[:n])
				}
				k.markDirty()
			})
			benchmark(b, name+"/tick", backend, func(k *Overlay, first bool) {
				if k.checkedAt.IsZero() {
					k.desired.SetPeers(peers[:n])
				}
			})
		}
	}
}

// benchmark reconciles after each change in a namespace of its own; odd and even
// changes are told apart.
func benchmark(b *testing.B, name string, backend Backend, change func(*Overlay, bool)) {
	b.Run(name, func(b *testing.B) {
		runtime.LockOSThread() // the thread dies with the benchmark
		ns, err := netns.New()
		if err != nil {
			b.Fatal(err)
		}
		defer ns.Close()
		addEth0(b)
		cfg := manyConfig(backend)
		k, err := Open(cfg, NewDesired(cfg), func() {}, slog.Default())
		if err != nil {
			b.Fatal(err)
		}
		defer k.Close()
		k.probe.settled = true
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if err := k.Watch(ctx); err != nil {
			b.Fatal(err)
		}
		change(k, true)
		for k.Reconcile(); k.dirty.Load(); k.Reconcile() {
			time.Sleep(50 * time.Millisecond)
		}
		if len(k.Warnings()) > 0 {
			b.Fatal(k.Warnings())
		}
		b.ReportAllocs()
		b.ResetTimer()
		for i := 0; b.Loop(); i++ {
			change(k, i%2 == 0)
			k.Reconcile()
		}
		b.StopTimer()
		if len(k.Warnings()) > 0 {
			b.Fatal(k.Warnings())
		}
	})
}
