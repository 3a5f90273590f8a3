package nodeaddr

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"brink/internal/testaddr"
)

// TestDefaultInterface asks the kernel, in a network namespace of its own.
func TestDefaultInterface(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, routes string
		v4, v6       string // the interface, "" for none
	}{
		{"none", "ip route add 192.0.2.128/25 via 192.0.2.1", "", ""},
		{"one", "ip route add default via 192.0.2.1; ip -6 route add default via 2001:db8::9", "eth0", "eth0"},
		{"lowest metric", "ip route add default dev eth0 metric 200; ip route add default dev wlan0 metric 100; ip -6 route add default dev eth0 metric 2000; ip -6 route add default dev wlan0 metric 1025", "wlan0", "wlan0"},
		{"a half is no default", "ip route add 128.0.0.0/1 dev eth0; ip -6 route add 8000::/1 dev eth0", "", ""},
		{"none can be reached", "ip route add unreachable default; ip -6 route add unreachable default dev lo", "", ""},
		{"the table of a VPN", "ip route add default dev eth0; ip route add default dev wlan0 table 51820; ip -6 route add default dev eth0 metric 1024; ip -6 route add default dev wlan0 table 51820 metric 1", "eth0", "eth0"},
		{"only the table of a VPN", "ip route add default dev wlan0 table 51820; ip -6 route add default dev wlan0 table 51820", "", ""},
		{"several next hops", "ip route add default nexthop dev wlan0 nexthop dev eth0; ip -6 route add default nexthop via fe80::1 dev wlan0 nexthop via fe80::2 dev eth0", "wlan0", "wlan0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			inNamespace(t, func() {
				script := "ip link set lo up; for l in eth0 wlan0; do ip link add $l type veth peer name peer-$l; ip link set $l up; ip link set peer-$l up; done; ip addr add 192.0.2.7/24 dev eth0; ip addr add 2001:db8::7/64 dev eth0 nodad; " + tt.routes
				if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
					return
				}
				for v4, want := range map[bool]string{true: tt.v4, false: tt.v6} {
					got, err := defaultInterface(v4)
					if got != want || (err == nil) != (want != "") {
						t.Errorf("IPv4 %t: got %q, %v, want %q", v4, got, err, want)
					}
				}
			})
		})
	}
}

// inNamespace runs do in a network namespace of its own.
func inNamespace(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("a network namespace: %v", err)
			return
		}
		do()
	}()
	<-done
}

// ofKind is a link that is up and has a carrier.
func ofKind(name string, k kind, addrs ...string) link {
	return link{name: name, up: true, running: true, kind: k, addrs: testaddr.Addrs(addrs...)}
}

// passing is l with addresses that are not there to stay.
func passing(l link, addrs ...string) link {
	l.transient = map[netip.Addr]bool{}
	for _, a := range testaddr.Addrs(addrs...) {
		l.transient[a] = true
	}
	return l
}

func noCarrier(l link) link { l.running = false; return l }

func down(l link) link { l.up, l.running = false, false; return l }

var (
	lastStart = Address{IP: netip.MustParseAddr("192.0.2.7"), Link: "eth0"}
	docker    = ofKind("docker0", virtual, "172.17.0.1")
	podBridge = ofKind("brink0", virtual, "10.42.0.1")
)

var choices = []struct {
	name   string
	links  []link
	route  string // the interface of the default route
	last   Address
	want   string // "IP of link", "" for none
	isGone bool
}{
	{"default route", []link{docker, ofKind("eth0", physical, "192.0.2.7")}, "eth0", Address{}, "192.0.2.7 of eth0", false},
	{"a second address of the default route's", []link{ofKind("eth0", physical, "192.0.2.9", "192.0.2.7")}, "eth0", lastStart, "192.0.2.7 of eth0", false},
	{"the last one passes", []link{passing(ofKind("eth0", physical, "192.0.2.9", "192.0.2.7"), "192.0.2.7")}, "eth0", lastStart, "192.0.2.9 of eth0", false},
	{"all pass", []link{passing(ofKind("eth0", physical, "192.0.2.9", "192.0.2.7"), "192.0.2.7", "192.0.2.9")}, "eth0", lastStart, "192.0.2.7 of eth0", false},
	{"default route over a bridge", []link{ofKind("eth0", physical), ofKind("br0", virtual, "192.0.2.7")}, "br0", Address{}, "192.0.2.7 of br0", false},
	{"new address by DHCP", []link{ofKind("eth0", physical, "192.0.2.9")}, "eth0", lastStart, "192.0.2.9 of eth0", false},
	{"default route has moved", []link{ofKind("eth0", physical), ofKind("wwan0", physical, "198.51.100.1")}, "wwan0", lastStart, "198.51.100.1 of wwan0", false},
	{"network overlaps the pods'", []link{ofKind("eth0", physical, "10.42.7.7")}, "eth0", Address{}, "10.42.7.7 of eth0", false},

	{"cable out, address gone", []link{podBridge, docker, noCarrier(ofKind("eth0", physical))}, "", lastStart, "192.0.2.7 of eth0", true},
	{"cable out, another network", []link{ofKind("usb0", physical, "203.0.113.1"), noCarrier(ofKind("eth0", physical))}, "", lastStart, "192.0.2.7 of eth0", true},
	{"cable out, address stays", []link{podBridge, noCarrier(ofKind("eth0", physical, "192.0.2.7"))}, "", lastStart, "192.0.2.7 of eth0", false},
	{"no gateway, second address", []link{ofKind("eth0", physical, "192.0.2.1", "192.0.2.7")}, "", lastStart, "192.0.2.7 of eth0", false},
	{"no gateway, new address", []link{docker, ofKind("eth0", physical, "192.0.2.9")}, "", lastStart, "192.0.2.9 of eth0", false},
	{"the card has gone", []link{docker, ofKind("eth1", physical, "192.0.2.9")}, "", lastStart, "192.0.2.9 of eth1", false},
	{"the card has gone and no other is there", []link{docker, podBridge}, "", lastStart, "192.0.2.7 of eth0", true},
	{"no links at all", nil, "", lastStart, "192.0.2.7 of eth0", true},

	{"first start, no gateway", []link{docker, podBridge, ofKind("eth0", physical, "192.0.2.7")}, "", Address{}, "192.0.2.7 of eth0", false},
	{"first start, VLAN", []link{docker, ofKind("eth0.7", unknown, "192.0.2.7"), ofKind("eth0", physical)}, "", Address{}, "192.0.2.7 of eth0.7", false},
	{"first start, card before VLAN", []link{ofKind("eth0.7", unknown, "192.0.2.7"), noCarrier(ofKind("eth0", physical, "192.0.2.8"))}, "", Address{}, "192.0.2.8 of eth0", false},
	{"first start, carrier before none", []link{noCarrier(ofKind("eth0", physical, "192.0.2.8")), ofKind("wlan0", physical, "192.0.2.9")}, "", Address{}, "192.0.2.9 of wlan0", false},
	{"first start, only containers", []link{docker, ofKind("veth7", virtual, "192.0.2.7")}, "", Address{}, "", false},
	{"first start, only our own", []link{ofKind("flat0", unknown, "10.42.0.1"), ofKind("svc0", unknown, "10.43.0.1")}, "", Address{}, "", false},
	{"first start, only down", []link{down(ofKind("eth0", physical, "192.0.2.7"))}, "", Address{}, "", false},
}

func TestChoose(t *testing.T) {
	t.Parallel()
	inside := testaddr.Prefixes("10.42.0.0/16", "10.43.0.0/16")
	for _, c := range choices {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, ok := choose(c.links, c.route, c.last, inside)
			if ok != (c.want != "") || ok && (describe([]Address{got}) != c.want || got.Gone != c.isGone) {
				t.Errorf("got %v %v, want %q, gone %v", got, ok, c.want, c.isGone)
			}
		})
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	sys := t.TempDir()
	for _, path := range []string{
		"eth0/device/x", "docker0/bridge/x", "docker0/brif/veth1/x", "br0/bridge/x", "br0/brif/eth0/x", "br0/brif/veth1/x",
		"veth1/x", "tun0/tun_flags", "bond0/x", "wlan0/device/x",
	} {
		write(t, filepath.Join(sys, "class/net", path), "")
	}
	write(t, filepath.Join(sys, "class/net/wg0/uevent"), "DEVTYPE=wireguard\nINTERFACE=wg0\n")
	write(t, filepath.Join(sys, "class/net/eth0.7/uevent"), "DEVTYPE=vlan\nINTERFACE=eth0.7\n")
	cases := map[string]kind{
		"eth0": physical, "wlan0": physical, "docker0": virtual, "br0": unknown, "veth1": virtual, "tun0": virtual,
		"bond0": unknown, "wg0": virtual, "eth0.7": unknown, "of another namespace": unknown,
	}
	for name, want := range cases {
		if got := kindOf(sys, name); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRemember(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "agent", "addresses.json")
	if got := remembered(file); len(got) > 0 {
		t.Errorf("before the first start: %v", got)
	}
	want := []Address{{IP: netip.MustParseAddr("fd00::7"), Link: "eth0"}, {IP: netip.MustParseAddr("192.0.2.7"), Link: "wlan0"}}
	for range 2 {
		if err := remember(file, want); err != nil {
			t.Fatal(err)
		}
	}
	got := remembered(file)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if addressOf(got, true) != want[1] || addressOf(got, false) != want[0] || addressOf(nil, true).IP.IsValid() {
		t.Errorf("of the families: %v, %v", addressOf(got, true), addressOf(got, false))
	}
	write(t, file, "\x00\x00")
	if got := remembered(file); len(got) > 0 {
		t.Errorf("a damaged file must not keep the node from starting: %v", got)
	}
}

func TestOfFamily(t *testing.T) {
	t.Parallel()
	links := []link{{name: "eth0", up: true, addrs: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("fd00::7")}}}
	for _, v4 := range []bool{true, false} {
		if got := ofFamily(links, v4); len(got[0].addrs) != 1 || got[0].addrs[0].Is4() != v4 {
			t.Errorf("IPv4 %v: got %v", v4, got)
		}
	}
	if len(links[0].addrs) != 2 {
		t.Error("what was found is changed")
	}
}

// TestAddressesThatStay: a kernel with temporary addresses lists the newest first.
func TestAddressesThatStay(t *testing.T) {
	t.Parallel()
	inNamespace(t, func() {
		const script = "ip link add eth0 type veth peer name peer; ip link set eth0 up; ip addr add 192.0.2.7/24 dev eth0; " +
			"ip addr add 2001:db8::1/64 dev eth0 nodad; ip addr add 2001:db8::2/64 dev eth0 nodad preferred_lft 0; ip addr add 2001:db8::3/64 dev eth0"
		if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
			return
		}
		var own []netip.Addr
		for _, a := range []string{"2001:db8::3", "2001:db8::2", "2001:db8::1", "192.0.2.7"} {
			own = append(own, netip.MustParseAddr(a))
		}
		// ::2 is deprecated; that nobody has ::3 cannot be found out without a carrier.
		if got, want := lasting(slices.Clone(own), transientAddrs()), []netip.Addr{own[2], own[3], own[0], own[1]}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if got := lasting(slices.Clone(own), nil); !slices.Equal(got, own) {
			t.Errorf("without IPv6: %v", got)
		}
	})
}
