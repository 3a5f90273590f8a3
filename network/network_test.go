package network

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"brink/internal/testaddr"
	"brink/network/rtnl"
	"brink/network/sysctl"
	"brink/network/testnet"
)

func dualStack(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		ClusterCIDRs: testnet.DualStack.ClusterCIDRs(),
		NodeCIDRs:    testnet.DualStack.NodeCIDRs(3),
		CNIConfDir:   filepath.Join(dir, "net.d"),
		CNIStateDir:  filepath.Join(dir, "state"),
		cniCacheDir:  filepath.Join(dir, "cache"),
		checkEvery:   20 * time.Millisecond,
	}
}

// openNode is a node in the test's namespace whose loop the test runs.
func openNode(t *testing.T, cfg Config) *reconciler {
	t.Helper()
	n, err := open(t.Context(), New(cfg))
	testnet.Must(t, err)
	t.Cleanup(n.close)
	return n
}

// runIn runs the component in a namespace until the test ends.
func runIn(t *testing.T, ns netns.NsHandle, cfg Config) {
	t.Helper()
	testnet.Background(t, ns, New(cfg).Component().Run)
}

const dualStackTable = `table inet brink {
	comment "pod network of brink"
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "brink0" ip saddr 127.0.0.0/8 drop comment "pods do not reach the host's loopback"
		iifname "brink0" ip daddr 127.0.0.0/8 drop comment "pods do not reach the host's loopback"
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
		iifname "br-edge" ip saddr 127.0.0.0/8 drop comment "pods do not reach the host's loopback"
		iifname "br-edge" ip daddr 127.0.0.0/8 drop comment "pods do not reach the host's loopback"
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.42.0.0/16 ip daddr != { 10.42.0.0/16, 224.0.0.0/4 } oifname != "br-edge" masquerade fully-random comment "pods leaving the cluster"
	}
}
`

func TestRules(t *testing.T) {
	t.Parallel()
	ns := testnet.Enter(t)
	testnet.NFT(t, "add", "table", "inet", "somebody")
	// What an older version left must not survive beside what this one wants.
	testnet.NFT(t, "add", "table", "inet", "brink")
	testnet.NFT(t, "add", "chain", "inet", "brink", "old")
	runIn(t, ns, dualStack(t))
	if got := testnet.NFT(t, "list", "table", "inet", "brink"); got != dualStackTable {
		t.Errorf("got\n%s\nwant\n%s", got, dualStackTable)
	}
	if got := testnet.NFT(t, "list", "tables"); got != "table inet somebody\ntable inet brink\n" {
		t.Errorf("tables\n%s", got)
	}
}

func TestRulesOfOneFamily(t *testing.T) {
	t.Parallel()
	ns := testnet.Enter(t)
	cfg := dualStack(t)
	cfg.ClusterCIDRs, cfg.NodeCIDRs, cfg.bridge = cfg.ClusterCIDRs[:1], cfg.NodeCIDRs[:1], "br-edge"
	testnet.WriteSetting(t, "net/ipv6/conf/all/forwarding", "0")
	runIn(t, ns, cfg)
	if got := testnet.NFT(t, "list", "table", "inet", "brink"); got != ipv4Table {
		t.Errorf("got\n%s\nwant\n%s", got, ipv4Table)
	}
	testnet.WantSetting(t, "net/ipv6/conf/all/forwarding", "0")
}

// TestRepair does to a running node what careless administrators do.
func TestRepair(t *testing.T) {
	t.Parallel()
	bridge := func(t *testing.T) netlink.Link {
		t.Helper()
		link, err := netlink.LinkByName("brink0")
		testnet.Must(t, err)
		return link
	}
	for name, damage := range map[string]func(*testing.T){
		"table deleted":   func(t *testing.T) { testnet.NFT(t, "delete", "table", "inet", "brink") },
		"ruleset flushed": func(t *testing.T) { testnet.NFT(t, "flush", "ruleset") },
		"chain flushed":   func(t *testing.T) { testnet.NFT(t, "flush", "chain", "inet", "brink", "postrouting") },
		"rule added":      func(t *testing.T) { testnet.NFT(t, "insert", "rule", "inet", "brink", "postrouting", "accept") },
		"forwarding off": func(t *testing.T) {
			testnet.WriteSetting(t, "net/ipv4/ip_forward", "0")
			testnet.WriteSetting(t, "net/ipv6/conf/all/forwarding", "0")
		},
		"bridge deleted":  func(t *testing.T) { testnet.Must(t, netlink.LinkDel(bridge(t))) },
		"bridge set down": func(t *testing.T) { testnet.Must(t, netlink.LinkSetDown(bridge(t))) },
		"bridge flushed": func(t *testing.T) {
			addrs, err := netlink.AddrList(bridge(t), netlink.FAMILY_ALL)
			testnet.Must(t, err)
			for _, addr := range addrs {
				testnet.Must(t, netlink.AddrDel(bridge(t), &addr))
			}
		},
		"pod taken off the bridge": func(t *testing.T) {
			link, err := netlink.LinkByName("vethpod")
			testnet.Must(t, err)
			testnet.Must(t, netlink.LinkSetNoMaster(link))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := testnet.Enter(t)
			cfg := dualStack(t)
			pod := attachPod(t, cfg)
			testnet.Connect(t, "stranger", testnet.New(t), nil, nil)
			testnet.Listen(t, ns, netip.MustParseAddrPort("[::]:8080"))
			runIn(t, ns, cfg)
			want := state(t)
			for range 2 { // what is repaired must be watched on
				damage(t)
				testnet.Eventually(t, "repaired", func() bool { return state(t) == want })
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
		value, err := sysctl.Get(key)
		fmt.Fprintln(&b, key, value, err)
	}
	bridge, err := netlink.LinkByName("brink0")
	if err != nil {
		fmt.Fprintln(&b, err)
		return b.String()
	}
	fmt.Fprintln(&b, "brink0", bridge.Attrs().HardwareAddr, bridge.Attrs().Flags&net.FlagUp)
	addrs, err := rtnl.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	testnet.Must(t, err)
	for _, addr := range addrs {
		if !addr.IP.IsLinkLocalUnicast() {
			fmt.Fprintln(&b, addr.IPNet)
		}
	}
	for _, name := range []string{"vethpod", "stranger"} {
		link, err := netlink.LinkByName(name)
		testnet.Must(t, err)
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
	testnet.Inside(t, ns, func() error {
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(addr), 8080).String(), testnet.Patience)
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
	testnet.Enter(t)
	n := openNode(t, dualStack(t))
	testnet.Must(t, n.reconcile(t.Context()))
	before := testnet.NFT(t, "--handle", "list", "table", "inet", "brink")
	first := n.rules.generation
	testnet.NFT(t, "add", "table", "inet", "somebody")
	testnet.Must(t, n.reconcile(t.Context()))
	if n.rules.generation == first {
		t.Error("the kernel's generation did not move")
	}
	second := n.rules.generation
	testnet.Must(t, n.reconcile(t.Context()))
	if n.rules.generation != second {
		t.Error("a comparison changed the ruleset")
	}
	if after := testnet.NFT(t, "--handle", "list", "table", "inet", "brink"); after != before {
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
		ClusterCIDRs: testaddr.Prefixes("10.42.0.0/16", "10.44.0.0/16"),
		NodeCIDRs:    testaddr.Prefixes("10.43.1.0/24", "fd42::1/64"),
		CNIConfDir:   "net.d", CNIStateDir: "/state", mtu: 100, bridge: "a-name-of-16-byte",
	}
	err := New(cfg).Component().Run(t.Context(), func() { t.Error("ready") })
	want := `cluster CIDR 10.42.0.0/16 and 10.44.0.0/16 are of one address family
node CIDR fd42::1/64 is not a network prefix
node CIDR 10.43.1.0/24 is in none of the cluster's [10.42.0.0/16 10.44.0.0/16]
node CIDR fd42::1/64 is in none of the cluster's [10.42.0.0/16 10.44.0.0/16]
CNI directory "net.d" is not absolute
bridge name "a-name-of-16-byte" is longer than the 15 bytes the kernel allows
MTU 100 is not between 1280 and 65535`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}
