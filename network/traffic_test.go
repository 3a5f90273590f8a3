package network

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"brink/internal/testaddr"
	"brink/network/testnet"
)

// TestSources: by which address a server sees its callers. Within the
// cluster pods keep theirs; outside, and for other nodes' own addresses, they have
// their node's.
func TestSources(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := testnet.DualStack
			nodes := cluster(t, s, backend, backend)
			testnet.Meet(t, nodes...)
			outside := testnet.New(t)
			segment, err := netlink.LinkByName("segment0")
			testnet.Must(t, err)
			testnet.Must(t, netlink.LinkSetMaster(testnet.Connect(t, "outside", outside, s.OnSegment(0, 99), nil), segment))
			for _, a := range testaddr.Addrs("192.0.0.99", "2001:db8::99") {
				testnet.Listen(t, outside, netip.AddrPortFrom(a, 8080))
			}
			for _, a := range testaddr.Addrs("192.0.0.2", "2001:db8::2") {
				testnet.Listen(t, nodes[1].NS, netip.AddrPortFrom(a, 8080))
			}
			nodeAs := map[Backend][2]string{VXLAN: {"10.42.1.0", "fd42:0:0:1::"}, HostGW: {"192.0.0.1", "2001:db8::1"}}[backend]
			for _, tt := range []struct {
				name     string
				from     netns.NsHandle
				to, want string
			}{
				{"pod to pod", nodes[0].Pod, "10.42.2.10", "10.42.1.10"},
				{"pod to pod, IPv6", nodes[0].Pod, "fd42:0:0:2::10", "fd42:0:0:1::10"},
				{"node to pod elsewhere", nodes[0].NS, "10.42.2.10", nodeAs[0]},
				{"node to pod elsewhere, IPv6", nodes[0].NS, "fd42:0:0:2::10", nodeAs[1]},
				{"pod to another node", nodes[0].Pod, "192.0.0.2", "192.0.0.1"},
				{"pod to another node, IPv6", nodes[0].Pod, "2001:db8::2", "2001:db8::1"},
				{"pod to the outside", nodes[0].Pod, "192.0.0.99", "192.0.0.1"},
				{"pod to the outside, IPv6", nodes[0].Pod, "2001:db8::99", "2001:db8::1"},
			} {
				if got, err := testnet.Call(tt.from, tt.to, testnet.Patience); err != nil || got != tt.want {
					t.Errorf("%s: arrives from %s, want %s (%v)", tt.name, got, tt.want, err)
				}
			}
		})
	}
}

// addOutside connects a host outside, and behind it a pod of another node.
func addOutside(t *testing.T, outside netns.NsHandle) {
	t.Helper()
	uplink := testnet.Connect(t, "uplink", outside, []string{"198.51.100.9/24", "2001:db8::9/64"}, []string{"198.51.100.1", "2001:db8::1"})
	testnet.Must(t, testnet.AddAddr(uplink, "198.51.100.1/24"))
	testnet.Must(t, testnet.AddAddr(uplink, "2001:db8::1/64"))
	testnet.Inside(t, outside, func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, testnet.AddAddr(lo, "10.42.7.10/32"), testnet.AddAddr(lo, "fd42:0:0:7::10/128"))
	})
	testnet.Must(t, testnet.AddRoute(uplink, "10.42.7.0/24", "198.51.100.9"))
	testnet.Must(t, testnet.AddRoute(uplink, "fd42:0:0:7::/64", "2001:db8::9"))
}

// translateService leads to the second pod as a Service does. Answers between pods of one
// bridge come back through the translation only by the bridge settings, which are off.
func translateService(t *testing.T) {
	t.Helper()
	testnet.WriteSetting(t, "net/bridge/bridge-nf-call-iptables", "0")
	testnet.WriteSetting(t, "net/bridge/bridge-nf-call-ip6tables", "0")
	testnet.NFT(t, "add table inet service; add chain inet service pre { type nat hook prerouting priority dstnat; }; "+
		"add rule inet service pre ip daddr 10.43.0.9 dnat ip to 10.42.3.20; "+
		"add rule inet service pre ip6 daddr fd43::9 dnat ip6 to fd42:0:0:3::20")
}

// calls are made by TestTraffic, each with the address that it arrives from.
var calls = []struct{ name, from, to, want string }{
	{"pod to outside", "pod1", "198.51.100.9", "198.51.100.1"},
	{"pod to outside, IPv6", "pod1", "2001:db8::9", "2001:db8::1"},
	{"pod to pod on this node", "pod1", "10.42.3.20", "10.42.3.10"},
	{"pod to pod on this node, IPv6", "pod1", "fd42:0:0:3::20", "fd42:0:0:3::10"},
	{"pod to pod through a Service", "pod1", "10.43.0.9", "10.42.3.10"},
	{"pod to pod through a Service, IPv6", "pod1", "fd43::9", "fd42:0:0:3::10"},
	{"pod to pod on another node", "pod1", "10.42.7.10", "10.42.3.10"},
	{"pod to pod on another node, IPv6", "pod1", "fd42:0:0:7::10", "fd42:0:0:3::10"},
	{"pod to its node", "pod1", "198.51.100.1", "10.42.3.10"},
	{"pod to its node, IPv6", "pod1", "2001:db8::1", "fd42:0:0:3::10"},
	{"node to pod", "node", "10.42.3.20", "10.42.3.1"},
	{"outside to pod", "outside", "10.42.3.20", "198.51.100.9"},
}

// TestTraffic sends real connections: two pods on a node's bridge, a host
// outside, and a pod of another node behind that host. Each server says from
// which address it was called.
func TestTraffic(t *testing.T) {
	t.Parallel()
	node := testnet.Enter(t)
	pod1, pod2, outside := testnet.New(t), testnet.New(t), testnet.New(t)
	bridge := testnet.AddBridge(t, "brink0", "10.42.3.1/24", "fd42:0:0:3::1/64")
	gateways := []string{"10.42.3.1", "fd42:0:0:3::1"}
	for name, pod := range map[string]netns.NsHandle{"pod1": pod1, "pod2": pod2} {
		host := strings.TrimPrefix(name, "pod") + "0"
		link := testnet.Connect(t, name, pod, []string{"10.42.3." + host + "/24", "fd42:0:0:3::" + host + "/64"}, gateways)
		testnet.Must(t, netlink.LinkSetMaster(link, bridge))
	}
	addOutside(t, outside)
	translateService(t)
	runIn(t, node, dualStack(t))

	port := uint16(8080)
	for _, server := range []struct {
		ns    netns.NsHandle
		addrs []string
	}{
		{outside, []string{"198.51.100.9", "2001:db8::9", "10.42.7.10", "fd42:0:0:7::10"}},
		{pod2, []string{"10.42.3.20", "fd42:0:0:3::20"}},
		{node, []string{"198.51.100.1", "2001:db8::1"}},
	} {
		for _, addr := range server.addrs {
			testnet.Listen(t, server.ns, netip.AddrPortFrom(netip.MustParseAddr(addr), port))
		}
	}
	from := map[string]netns.NsHandle{"pod1": pod1, "node": node, "outside": outside}
	for _, tt := range calls {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []byte
			testnet.Inside(t, from[tt.from], func() error {
				conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(tt.to), port).String(), testnet.Patience)
				if err != nil {
					return err
				}
				defer conn.Close()
				got, err = io.ReadAll(conn)
				return err
			})
			if string(got) != tt.want {
				t.Errorf("arrives from %s, want %s", got, tt.want)
			}
		})
	}
}
