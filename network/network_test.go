package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
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
		CheckEvery:   20 * time.Millisecond,
	}
}

// runIn runs the component in a namespace until the test ends.
func runIn(t *testing.T, ns netns.NsHandle, cfg Config) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	done := start(ns, func() error { return New(cfg).Run(ctx, func() { close(ready) }) })
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
	for name, damage := range map[string]func(*testing.T){
		"table deleted":   func(t *testing.T) { nft(t, "delete", "table", "inet", "brink") },
		"ruleset flushed": func(t *testing.T) { nft(t, "flush", "ruleset") },
		"chain flushed":   func(t *testing.T) { nft(t, "flush", "chain", "inet", "brink", "postrouting") },
		"rule added":      func(t *testing.T) { nft(t, "insert", "rule", "inet", "brink", "postrouting", "accept") },
		"forwarding off": func(t *testing.T) {
			writeSetting(t, "net/ipv4/ip_forward", "0")
			writeSetting(t, "net/ipv6/conf/all/forwarding", "0")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := privateNetns(t)
			cfg := dualStack(t)
			runIn(t, ns, cfg)
			for range 2 { // what is repaired must be watched on
				damage(t)
				eventually(t, "repaired", func() bool {
					out, err := exec.Command("nft", "list", "table", "inet", "brink").Output()
					v4, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
					v6, _ := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding")
					return err == nil && string(out) == dualStackTable && string(v4) == "1\n" && string(v6) == "1\n"
				})
			}
		})
	}
}

// TestOthersRulesCauseNoRewrite checks that a generation raised by someone else
// is looked into and then remembered.
func TestOthersRulesCauseNoRewrite(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	n, err := open(dualStack(t).withDefaults())
	must(t, err)
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

func TestConflist(t *testing.T) {
	t.Parallel()
	cfg := dualStack(t)
	cfg.CNIStateDir = "/var/lib/brink/agent/cni/state"
	cfg.MTU = 1450
	got, err := wantedConflist(cfg.withDefaults())
	must(t, err)
	want := `{
  "cniVersion": "1.1.0",
  "name": "brink",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "brink0",
      "isGateway": true,
      "forceAddress": true,
      "hairpinMode": true,
      "mtu": 1450,
      "ipam": {
        "type": "host-local",
        "dataDir": "/var/lib/brink/agent/cni/state",
        "ranges": [
          [
            {
              "subnet": "10.42.3.0/24"
            }
          ],
          [
            {
              "subnet": "fd42:0:0:3::/64"
            }
          ]
        ],
        "routes": [
          {
            "dst": "0.0.0.0/0"
          },
          {
            "dst": "::/0"
          }
        ]
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      },
      "backend": "nftables",
      "snat": true
    }
  ]
}
`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestConflistIsWrittenOnlyWhenItDiffers(t *testing.T) {
	t.Parallel()
	cfg := dualStack(t).withDefaults()
	path := filepath.Join(cfg.CNIConfDir, conflistName)
	write := func(cfg Config) os.FileInfo {
		t.Helper()
		must(t, writeConflist(cfg))
		data, err := os.ReadFile(path)
		must(t, err)
		if want, err := wantedConflist(cfg); err != nil || !bytes.Equal(data, want) || !json.Valid(data) {
			t.Errorf("got %s (%v)", data, err)
		}
		info, err := os.Stat(path)
		must(t, err)
		return info
	}
	first := write(cfg)
	if !os.SameFile(first, write(cfg)) {
		t.Error("written again without a change")
	}
	cfg.MTU = 1400
	if os.SameFile(first, write(cfg)) {
		t.Error("not written with another MTU")
	}
	must(t, os.Remove(path))
	write(cfg)
}

func TestSettings(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	keys := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding",
		"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}
	for _, key := range keys {
		writeSetting(t, key, "0")
	}
	must(t, applySettings(dualStack(t)))
	for _, key := range keys {
		wantSetting(t, key, "1")
	}
}

// TestRouterAdvertisements has three links: one with a default route learnt from
// an advertisement, one whose owner handles them in user space, and a bridge of
// pods, which must never be believed.
func TestRouterAdvertisements(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	writeSetting(t, "net/ipv6/conf/all/forwarding", "0")
	for i, tt := range []struct{ name, acceptRA, want string }{{"uplink", "1", "2"}, {"networkd", "0", "0"}, {"brink0", "1", "1"}} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = tt.name
		must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789 + i}))
		link := up(t, tt.name)
		must(t, addAddr(link, fmt.Sprintf("2001:db8:%d::2/64", i+1)))
		writeSetting(t, "net/ipv6/conf/"+tt.name+"/accept_ra", tt.acceptRA)
		if tt.name != "brink0" {
			must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Protocol: unix.RTPROT_RA,
				Gw: net.ParseIP(fmt.Sprintf("2001:db8:%d::1", i+1)), Priority: 100 + i}))
		}
	}
	must(t, applySettings(dualStack(t)))
	wantSetting(t, "net/ipv6/conf/uplink/accept_ra", "2")
	wantSetting(t, "net/ipv6/conf/networkd/accept_ra", "0")
	wantSetting(t, "net/ipv6/conf/brink0/accept_ra", "1")
}

func TestReadOnlySettings(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	writeSetting(t, "net/ipv4/ip_forward", "0")
	// The thread dies with the test and takes its mounts along.
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	err := applySettings(dualStack(t))
	want := "kernel setting net.ipv4.ip_forward is 0, must be 1, and cannot be written here (read-only file system): " +
		"set it outside this container, sysctl -w net.ipv4.ip_forward=1"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestReadOnlySettingsThatAreRight(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	must(t, applySettings(dualStack(t)))
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	must(t, applySettings(dualStack(t)))
}

func TestWithoutNft(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := New(dualStack(t)).Run(t.Context(), func() { t.Error("ready without nft") })
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
	err := New(cfg).Run(t.Context(), func() { t.Error("ready") })
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

func linkNames(t *testing.T) string {
	t.Helper()
	links, err := allLinks()
	must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	cfg := dualStack(t)
	runBriefly(t, ns, cfg)
	bridge := addBridge(t, "brink0")
	pod, stranger := otherNetns(t), otherNetns(t)
	must(t, netlink.LinkSetMaster(connect(t, "pod", pod, nil, nil), bridge))
	connect(t, "stranger", stranger, nil, nil)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "nic" // somebody put a real port on our bridge
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	must(t, netlink.LinkSetMaster(up(t, "nic"), bridge))
	addBridge(t, "docker0")
	nft(t, "add", "table", "inet", "somebody")
	nft(t, "add", "table", "ip", "kube-proxy")
	must(t, os.WriteFile(filepath.Join(cfg.CNIConfDir, "99-other.conf"), nil, 0o644))

	for range 2 { // the second time finds nothing, which is no error
		must(t, Remove(cfg))
		if got := linkNames(t); got != "lo stranger nic docker0" {
			t.Errorf("links left: %s", got)
		}
		if got := nft(t, "list", "tables"); got != "table inet somebody\ntable ip kube-proxy\n" {
			t.Errorf("tables left:\n%s", got)
		}
		if entries, err := os.ReadDir(cfg.CNIConfDir); err != nil || len(entries) != 1 || entries[0].Name() != "99-other.conf" {
			t.Errorf("configuration left: %v %v", entries, err)
		}
		if _, err := os.Stat(cfg.CNIStateDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state left: %v", err)
		}
	}
}

// runBriefly starts the component and stops it again.
func runBriefly(t *testing.T, ns netns.NsHandle, cfg Config) {
	t.Helper()
	inside(t, ns, func() error {
		ctx, cancel := context.WithCancel(t.Context())
		return New(cfg).Run(ctx, cancel)
	})
}

func TestStopLeavesEverything(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	cfg := dualStack(t)
	runBriefly(t, ns, cfg)
	if got := nft(t, "list", "table", "inet", "brink"); got != dualStackTable {
		t.Errorf("rules after the stop:\n%s", got)
	}
	if _, err := os.Stat(filepath.Join(cfg.CNIConfDir, conflistName)); err != nil {
		t.Error(err)
	}
}

func TestRemoveLeavesAForeignLinkOfTheName(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "brink0"
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	if err := Remove(dualStack(t)); err == nil || !strings.Contains(err.Error(), "link brink0 is a vxlan") {
		t.Errorf("got %v", err)
	}
	if got := linkNames(t); got != "lo brink0" {
		t.Errorf("links left: %s", got)
	}
}

// TestRemoveHostPorts leaves the ports of other CNI networks on the host.
func TestRemoveHostPorts(t *testing.T) {
	t.Parallel()
	const table = `
table ip cni_hostport {
	chain hostports {
		tcp dport 80 dnat to 10.42.3.10:80 comment "ours"
		%s
	}
	chain hostip_hostports {
	}
	chain masquerading {
		type nat hook postrouting priority 100
		ip saddr 10.42.3.10 ip daddr 10.42.3.10 masquerade comment "ours"
	}
}`
	for _, tt := range []struct{ name, rule, want string }{
		{"alone", "", ""},
		{"with others", `tcp dport 81 dnat to 10.88.0.2:80 comment "theirs"`, `table ip cni_hostport {
	chain hostports {
		tcp dport 81 dnat to 10.88.0.2:80 comment "theirs"
	}

	chain hostip_hostports {
	}

	chain masquerading {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			privateNetns(t)
			cfg := dualStack(t)
			leases := filepath.Join(cfg.CNIStateDir, networkName)
			must(t, os.MkdirAll(leases, 0o755))
			must(t, os.WriteFile(filepath.Join(leases, "10.42.3.10"), []byte("ours\r\neth0"), 0o644))
			must(t, os.WriteFile(filepath.Join(leases, "lock"), nil, 0o644))
			rules := filepath.Join(t.TempDir(), "rules")
			must(t, os.WriteFile(rules, []byte(fmt.Sprintf(table, tt.rule)), 0o644))
			nft(t, "-f", rules)
			must(t, Remove(cfg))
			if got := nft(t, "list", "ruleset"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
