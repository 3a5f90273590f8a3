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
		CNICacheDir:  filepath.Join(dir, "cache"),
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
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.42.0.0/16 ip daddr != { 10.42.0.0/16, 224.0.0.0/4 } oifname != "brink0" masquerade fully-random comment "pods leaving the cluster"
		ip6 saddr fd42::/56 ip6 daddr != { fd42::/56, ff00::/8 } oifname != "brink0" masquerade fully-random comment "pods leaving the cluster"
	}
}
`

const ipv4Table = `table inet brink {
	comment "pod network of brink"
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

// attachPod does what the CNI plugins do for a pod.
func attachPod(t *testing.T, cfg Config) netns.NsHandle {
	t.Helper()
	pod := otherNetns(t)
	bridge := addBridge(t, "brink0", "10.42.3.1/24", "fd42:0:0:3::1/64")
	link := connect(t, "vethpod", pod, []string{"10.42.3.10/24", "fd42:0:0:3::10/64"}, []string{"10.42.3.1", "fd42:0:0:3::1"})
	must(t, netlink.LinkSetMaster(link, bridge))
	must(t, netlink.LinkSetHairpin(link, true))
	results := filepath.Join(cfg.CNICacheDir, "results")
	for _, dir := range []string{cfg.leases(), results} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	must(t, os.WriteFile(filepath.Join(cfg.leases(), "10.42.3.10"), []byte("id\r\neth0"), 0o644))
	for id, veth := range map[string]string{"id": "vethpod", "gone": "stranger"} {
		text := fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "ifName": "eth0", "networkName": "brink",
			"result": {"cniVersion": "1.1.0", "interfaces": [{"name": "brink0"}, {"name": %q}, {"name": "eth0", "sandbox": "/run/netns/x"}]}}`, id, veth)
		must(t, os.WriteFile(filepath.Join(results, "brink-"+id+"-eth0"), []byte(text), 0o600))
	}
	return pod
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

// TestEventsWakeTheLoop: it must not take a tick, which is a day away here.
func TestEventsWakeTheLoop(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	cfg := dualStack(t)
	cfg.CheckEvery = 24 * time.Hour
	attachPod(t, cfg)
	connect(t, "stranger", otherNetns(t), nil, nil)
	runIn(t, ns, cfg)
	want := state(t)
	link, err := netlink.LinkByName("brink0")
	must(t, err)
	must(t, netlink.LinkDel(link))
	eventually(t, "repaired", func() bool { return state(t) == want })
}

// TestNoBridgeWithoutPods: until the first pod there is nothing to repair.
func TestNoBridgeWithoutPods(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	cfg := dualStack(t)
	n, err := open(cfg.withDefaults())
	must(t, err)
	must(t, n.reconcile(t.Context()))
	must(t, os.MkdirAll(cfg.leases(), 0o755))
	must(t, os.WriteFile(filepath.Join(cfg.leases(), "lock"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(cfg.leases(), "last_reserved_ip.0"), []byte("10.42.3.10"), 0o644))
	must(t, n.reconcile(t.Context()))
	if got := linkNames(t); got != "lo" {
		t.Errorf("links are %s", got)
	}
}

func TestForeignLinkOfTheBridgesName(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	cfg := dualStack(t)
	must(t, os.MkdirAll(cfg.leases(), 0o755))
	must(t, os.WriteFile(filepath.Join(cfg.leases(), "10.42.3.10"), []byte("id\r\neth0"), 0o644))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "brink0"
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	n, err := open(cfg.withDefaults())
	must(t, err)
	if err := n.reconcile(t.Context()); err == nil || !strings.Contains(err.Error(), "there is a vxlan of this name: remove or rename it") {
		t.Errorf("got %v", err)
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
	must(t, applySettings(dualStack(t).withDefaults()))
	for _, key := range keys {
		wantSetting(t, key, "1")
	}
}

// TestRouterAdvertisements has links with a default route learnt from an
// advertisement, without one yet, whose owner handles them in user space, and two
// that lead to pods, which must never be believed.
func TestRouterAdvertisements(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	writeSetting(t, "net/ipv6/conf/all/forwarding", "0")
	learn := func(name, gateway string) {
		t.Helper()
		link := up(t, name)
		must(t, addAddr(link, gateway+"2/64"))
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Protocol: unix.RTPROT_RA,
			Gw: net.ParseIP(gateway + "1"), Priority: 100 + link.Attrs().Index}))
	}
	acceptRA := func(name, value string) { writeSetting(t, "net/ipv6/conf/"+name+"/accept_ra", value) }
	addVxlan(t, "uplink", 1)
	learn("uplink", "2001:db8:1::")
	addVxlan(t, "networkd", 2)
	learn("networkd", "2001:db8:2::")
	acceptRA("networkd", "0")
	addVxlan(t, "quiet", 3)
	// A home server's uplink is often a bridge, a container's a veth.
	addBridge(t, "br0")
	learn("br0", "2001:db8:4::")
	connect(t, "veth0", otherNetns(t), nil, nil)
	learn("veth0", "2001:db8:5::")
	addBridge(t, "brink0")
	learn("brink0", "2001:db8:6::")
	connect(t, "vethpod", otherNetns(t), nil, nil)
	for _, name := range []string{"uplink", "quiet", "br0", "veth0", "brink0", "vethpod"} {
		acceptRA(name, "1")
	}
	runIn(t, ns, dualStack(t))
	for name, want := range map[string]string{
		"uplink": "2", "networkd": "0", "quiet": "2", "br0": "2", "veth0": "2", "brink0": "1", "vethpod": "1", "lo": "1",
	} {
		wantSetting(t, "net/ipv6/conf/"+name+"/accept_ra", want)
	}
	addVxlan(t, "modem", 7) // plugged in later
	eventually(t, "advertisements accepted", func() bool {
		value, err := get("net/ipv6/conf/modem/accept_ra")
		return err == nil && value == "2"
	})
}

func addVxlan(t *testing.T, name string, id int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: id, Port: 4788 + id}))
	up(t, name)
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
	err := applySettings(dualStack(t).withDefaults())
	want := "kernel setting net.ipv4.ip_forward is 0, must be 1, and cannot be written here (read-only file system): " +
		"set it outside this container, sysctl -w net.ipv4.ip_forward=1"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestReadOnlySettingsThatAreRight(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	must(t, applySettings(dualStack(t).withDefaults()))
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	must(t, applySettings(dualStack(t).withDefaults()))
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

// TestRemoveEmptyHostPorts: when the pods are gone the plugin has left an empty
// table, which goes unless it was there before the node.
func TestRemoveEmptyHostPorts(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("there before: %t", before), func(t *testing.T) {
			t.Parallel()
			ns := privateNetns(t)
			cfg := dualStack(t)
			add := func() { nft(t, "add table ip cni_hostport; add chain ip cni_hostport hostports") }
			if before {
				add()
			}
			runBriefly(t, ns, cfg)
			add()
			runBriefly(t, ns, cfg) // a restart knows no more than the first start
			must(t, Remove(cfg))
			if got := nft(t, "list", "tables"); (got != "") != before {
				t.Errorf("tables are %q", got)
			}
		})
	}
}
