package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const patience = 30 * time.Second

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func dualStack(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		ClusterCIDRs: prefixes("10.42.0.0/16", "fd42::/56"),
		NodeCIDRs:    prefixes("10.42.3.0/24", "fd42:0:0:3::/64"),
		CNIConfDir:   filepath.Join(dir, "net.d"),
		CNIStateDir:  filepath.Join(dir, "state"),
		CNICacheDir:  filepath.Join(dir, "cache"),
		CheckEvery:   20 * time.Millisecond,
	}
}

// openNode is a node in the test's namespace whose loop the test runs.
func openNode(t *testing.T, cfg Config) *node {
	t.Helper()
	cfg = cfg.withDefaults()
	n, err := open(t.Context(), cfg, newPeerKeeper(cfg, func() {}))
	must(t, err)
	t.Cleanup(n.close)
	return n
}

// runIn runs the component in a namespace until the test ends.
func runIn(t *testing.T, ns netns.NsHandle, cfg Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	done := start(ns, func() error { return New(cfg).Component().Run(ctx, func() { close(ready) }) })
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("component: %v", err)
		}
	})
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatal("not ready")
	}
}

func nft(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("nft", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("nft %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in %s", what, patience)
		}
	}
}

const dualStackTable = `table inet brink {
	comment "pod network of brink"
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "brink0" ip saddr 127.0.0.0/8 drop comment "no way from pods to the host's loopback"
		iifname "brink0" ip daddr 127.0.0.0/8 drop comment "no way from pods to the host's loopback"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.42.0.0/16 ip daddr != { 10.42.0.0/16, 224.0.0.0/4 } oifname != "brink0" masquerade fully-random comment "pods leaving the cluster"
		ip6 saddr fd42::/56 ip6 daddr != { fd42::/56, ff00::/8 } oifname != "brink0" masquerade fully-random comment "pods leaving the cluster"
	}
}
`

const ipv4Table = `table inet brink {
	comment "pod network of brink"
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "br-edge" ip saddr 127.0.0.0/8 drop comment "no way from pods to the host's loopback"
		iifname "br-edge" ip daddr 127.0.0.0/8 drop comment "no way from pods to the host's loopback"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.42.0.0/16 ip daddr != { 10.42.0.0/16, 224.0.0.0/4 } oifname != "br-edge" masquerade fully-random comment "pods leaving the cluster"
	}
}
`

func TestRules(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	nft(t, "add", "table", "inet", "somebody")
	// What an older version left must not survive beside what this one wants.
	nft(t, "add", "table", "inet", "brink")
	nft(t, "add", "chain", "inet", "brink", "old")
	runIn(t, ns, dualStack(t))
	if got := nft(t, "list", "table", "inet", "brink"); got != dualStackTable {
		t.Errorf("got\n%s\nwant\n%s", got, dualStackTable)
	}
	if got := nft(t, "list", "tables"); got != "table inet somebody\ntable inet brink\n" {
		t.Errorf("tables\n%s", got)
	}
}

func TestRulesOfOneFamily(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	cfg := dualStack(t)
	cfg.ClusterCIDRs, cfg.NodeCIDRs, cfg.Bridge = cfg.ClusterCIDRs[:1], cfg.NodeCIDRs[:1], "br-edge"
	writeSetting(t, "net/ipv6/conf/all/forwarding", "0")
	runIn(t, ns, cfg)
	if got := nft(t, "list", "table", "inet", "brink"); got != ipv4Table {
		t.Errorf("got\n%s\nwant\n%s", got, ipv4Table)
	}
	wantSetting(t, "net/ipv6/conf/all/forwarding", "0")
}

// TestRepair does to a running node what careless administrators do.
func TestRepair(t *testing.T) {
	t.Parallel()
	bridge := func(t *testing.T) netlink.Link {
		t.Helper()
		link, err := netlink.LinkByName("brink0")
		must(t, err)
		return link
	}
	for name, damage := range map[string]func(*testing.T){
		"table deleted":   func(t *testing.T) { nft(t, "delete", "table", "inet", "brink") },
		"ruleset flushed": func(t *testing.T) { nft(t, "flush", "ruleset") },
		"chain flushed":   func(t *testing.T) { nft(t, "flush", "chain", "inet", "brink", "postrouting") },
		"rule added":      func(t *testing.T) { nft(t, "insert", "rule", "inet", "brink", "postrouting", "accept") },
		"forwarding off": func(t *testing.T) {
			writeSetting(t, "net/ipv4/ip_forward", "0")
			writeSetting(t, "net/ipv6/conf/all/forwarding", "0")
		},
		"bridge deleted":  func(t *testing.T) { must(t, netlink.LinkDel(bridge(t))) },
		"bridge set down": func(t *testing.T) { must(t, netlink.LinkSetDown(bridge(t))) },
		"bridge flushed": func(t *testing.T) {
			addrs, err := netlink.AddrList(bridge(t), netlink.FAMILY_ALL)
			must(t, err)
			for _, addr := range addrs {
				must(t, netlink.AddrDel(bridge(t), &addr))
			}
		},
		"pod taken off the bridge": func(t *testing.T) {
			link, err := netlink.LinkByName("vethpod")
			must(t, err)
			must(t, netlink.LinkSetNoMaster(link))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := privateNetns(t)
			cfg := dualStack(t)
			pod := attachPod(t, cfg)
			connect(t, "stranger", otherNetns(t), nil, nil)
			listen(t, ns, netip.MustParseAddrPort("[::]:8080"))
			runIn(t, ns, cfg)
			want := state(t)
			for range 2 { // what is repaired must be watched on
				damage(t)
				eventually(t, "repaired", func() bool { return state(t) == want })
			}
			reach(t, pod, "10.42.3.1")
			reach(t, pod, "fd42:0:0:3::1")
		})
	}
}

// state is what the component keeps, as text.
func state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	out, _ := exec.Command("nft", "list", "table", "inet", "brink").CombinedOutput()
	b.Write(out)
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		value, err := get(key)
		fmt.Fprintln(&b, key, value, err)
	}
	bridge, err := netlink.LinkByName("brink0")
	if err != nil {
		fmt.Fprintln(&b, err)
		return b.String()
	}
	fmt.Fprintln(&b, "brink0", bridge.Attrs().HardwareAddr, bridge.Attrs().Flags&net.FlagUp)
	addrs, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	must(t, err)
	for _, addr := range addrs {
		if !addr.IP.IsLinkLocalUnicast() {
			fmt.Fprintln(&b, addr.IPNet)
		}
	}
	for _, name := range []string{"vethpod", "stranger"} {
		link, err := netlink.LinkByName(name)
		must(t, err)
		fmt.Fprintln(&b, name, link.Attrs().MasterIndex == bridge.Attrs().Index)
		if port, err := netlink.LinkGetProtinfo(link); err == nil {
			fmt.Fprintln(&b, "hairpin", port.Hairpin)
		}
	}
	return b.String()
}

// reach waits until a server on port 8080 answers in ns.
func reach(t *testing.T, ns netns.NsHandle, addr string) {
	t.Helper()
	inside(t, ns, func() error {
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), 8080).String(), patience)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// TestOthersRulesCauseNoRewrite checks that a generation raised by someone else
// is looked into and then remembered.
func TestOthersRulesCauseNoRewrite(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	n := openNode(t, dualStack(t))
	must(t, n.reconcile(t.Context()))
	before := nft(t, "--handle", "list", "table", "inet", "brink")
	first := n.rules.generation
	nft(t, "add", "table", "inet", "somebody")
	must(t, n.reconcile(t.Context()))
	if n.rules.generation == first {
		t.Error("the kernel's generation did not move")
	}
	second := n.rules.generation
	must(t, n.reconcile(t.Context()))
	if n.rules.generation != second {
		t.Error("a look changed the ruleset")
	}
	if after := nft(t, "--handle", "list", "table", "inet", "brink"); after != before {
		t.Errorf("rewritten:\n%s\n%s", before, after)
	}
}

func TestWithoutNft(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := New(dualStack(t)).Component().Run(t.Context(), func() { t.Error("ready without nft") })
	if err == nil || err.Error() != "the program nft is not on this host: install the package nftables" {
		t.Errorf("got %v", err)
	}
}

func TestInvalidConfig(t *testing.T) {
	t.Parallel()
	cfg := Config{
		ClusterCIDRs: prefixes("10.42.0.0/16", "10.44.0.0/16"),
		NodeCIDRs:    prefixes("10.43.1.0/24", "fd42::1/64"),
		CNIConfDir:   "net.d", CNIStateDir: "/state", MTU: 100, Bridge: "a-name-of-16-byte",
	}
	err := New(cfg).Component().Run(t.Context(), func() { t.Error("ready") })
	want := `cluster CIDR 10.42.0.0/16 and 10.44.0.0/16 are of one address family
node CIDR fd42::1/64 is not a network prefix
node CIDR 10.43.1.0/24 is in none of the cluster's [10.42.0.0/16 10.44.0.0/16]
node CIDR fd42::1/64 is in none of the cluster's [10.42.0.0/16 10.44.0.0/16]
CNI directory "net.d" is not absolute
MTU 100 is not between 1280 and 65535
bridge name "a-name-of-16-byte" is longer than the 15 bytes the kernel allows`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestInvalidBackend(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Config){
		"the node has no address for other nodes":                                             func(c *Config) { c.Underlay = nil },
		"the node's address 127.0.0.1 cannot be reached from other nodes":                     func(c *Config) { c.Underlay = addrs("127.0.0.1") },
		"the node's addresses [192.0.2.1 192.0.2.2] must be at most one of each family":       func(c *Config) { c.Underlay = addrs("192.0.2.1", "192.0.2.2") },
		`network backend "wireguard" is none of vxlan, host-gw, none`:                         func(c *Config) { c.Backend = "wireguard" },
		"VXLAN port 65536 is not between 1 and 65535":                                         func(c *Config) { c.VXLANPort = 65536 },
		"VXLAN network identifier 16777216 is not between 1 and 16777215":                     func(c *Config) { c.VNI = 1 << 24 },
		`VXLAN device name "a-name-of-16-byte" is longer than the 15 bytes the kernel allows`: func(c *Config) { c.VXLANDevice = "a-name-of-16-byte" },
	} {
		cfg := dualStack(t)
		cfg.Backend, cfg.Underlay = VXLAN, addrs("192.0.2.1", "2001:db8::1")
		must(t, cfg.withDefaults().Validate())
		change(&cfg)
		if err := cfg.withDefaults().Validate(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// TestTraffic sends real connections: two pods on a node's bridge, a host
// outside, and a pod of another node behind that host. Each server says from
// which address it was called.
func TestTraffic(t *testing.T) {
	t.Parallel()
	node := privateNetns(t)
	pod1, pod2, outside := otherNetns(t), otherNetns(t), otherNetns(t)
	bridge := addBridge(t, "brink0", "10.42.3.1/24", "fd42:0:0:3::1/64")
	gateways := []string{"10.42.3.1", "fd42:0:0:3::1"}
	for name, pod := range map[string]netns.NsHandle{"pod1": pod1, "pod2": pod2} {
		host := strings.TrimPrefix(name, "pod") + "0"
		link := connect(t, name, pod, []string{"10.42.3." + host + "/24", "fd42:0:0:3::" + host + "/64"}, gateways)
		must(t, netlink.LinkSetMaster(link, bridge))
	}
	uplink := connect(t, "uplink", outside, []string{"198.51.100.9/24", "2001:db8::9/64"}, []string{"198.51.100.1", "2001:db8::1"})
	must(t, addAddr(uplink, "198.51.100.1/24"))
	must(t, addAddr(uplink, "2001:db8::1/64"))
	inside(t, outside, func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, addAddr(lo, "10.42.7.10/32"), addAddr(lo, "fd42:0:0:7::10/128"))
	})
	must(t, addRoute(uplink, "10.42.7.0/24", "198.51.100.9"))
	must(t, addRoute(uplink, "fd42:0:0:7::/64", "2001:db8::9"))
	// As a Service would: answers between pods of one bridge must come back
	// through the translation, which they do only by the bridge settings.
	writeSetting(t, "net/bridge/bridge-nf-call-iptables", "0")
	writeSetting(t, "net/bridge/bridge-nf-call-ip6tables", "0")
	nft(t, "add table inet service; add chain inet service pre { type nat hook prerouting priority dstnat; }; "+
		"add rule inet service pre ip daddr 10.43.0.9 dnat ip to 10.42.3.20; "+
		"add rule inet service pre ip6 daddr fd43::9 dnat ip6 to fd42:0:0:3::20")
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
			listen(t, server.ns, netip.AddrPortFrom(netip.MustParseAddr(addr), port))
		}
	}
	for _, tt := range []struct {
		name     string
		from     netns.NsHandle
		to, want string
	}{
		{"pod to outside", pod1, "198.51.100.9", "198.51.100.1"},
		{"pod to outside, IPv6", pod1, "2001:db8::9", "2001:db8::1"},
		{"pod to pod on this node", pod1, "10.42.3.20", "10.42.3.10"},
		{"pod to pod on this node, IPv6", pod1, "fd42:0:0:3::20", "fd42:0:0:3::10"},
		{"pod to pod through a Service", pod1, "10.43.0.9", "10.42.3.10"},
		{"pod to pod through a Service, IPv6", pod1, "fd43::9", "fd42:0:0:3::10"},
		{"pod to pod on another node", pod1, "10.42.7.10", "10.42.3.10"},
		{"pod to pod on another node, IPv6", pod1, "fd42:0:0:7::10", "fd42:0:0:3::10"},
		{"pod to its node", pod1, "198.51.100.1", "10.42.3.10"},
		{"pod to its node, IPv6", pod1, "2001:db8::1", "fd42:0:0:3::10"},
		{"node to pod", node, "10.42.3.20", "10.42.3.1"},
		{"outside to pod", outside, "10.42.3.20", "198.51.100.9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []byte
			inside(t, tt.from, func() error {
				conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(tt.to), port).String(), patience)
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
