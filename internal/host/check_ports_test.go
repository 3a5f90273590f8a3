package host

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
)

// withListeners is a machine on which others listen: k3s, an older brink, nginx, and some
// whose process cannot be seen.
func withListeners(t *testing.T) machine {
	t.Helper()
	const header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	tcp := header +
		"   0: 0100007F:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0000000000000000 100 0 0 10 0\n" +
		"   1: 00000000:2782 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1 0000000000000000 100 0 0 10 0\n" +
		"   2: 0100007F:2788 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 333 1 0000000000000000 100 0 0 10 0\n"
	tcp6 := header +
		"   0: 00000000000000000000000000000000:2780 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 444 1 0000000000000000 100 0 0 10 0\n" +
		"   1: 0000000000000000FFFF00000100007F:2781 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 555 1 0000000000000000 100 0 0 10 0\n"
	udp := header + // somebody's 8472, a VXLAN device's 4789
		"   0: 00000000:2118 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 111 2 0000000000000000 0\n" +
		"   1: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 999 2 0000000000000000 0\n"
	return build(t, files{
		"proc/net/tcp": tcp, "proc/net/tcp6": tcp6, "proc/net/udp": udp,
		"proc/812/fd/3": "->socket:[111]", "proc/812/fd/4": "->/dev/null", "proc/812/comm": "k3s-server\n",
		"proc/900/fd/7": "->socket:[222]", "proc/900/comm": "brink\n",
		"proc/901/fd/7": "->socket:[555]", "proc/901/comm": "nginx\n",
	}, nil)
}

func TestPorts(t *testing.T) {
	t.Parallel()
	loopback := netip.MustParseAddr("127.0.0.1")
	other := netip.MustParseAddr("192.0.2.7")
	api := Port{Number: 6443, For: "API server", Flag: "--https-listen-port"}
	m := withListeners(t)
	fix := ": stop it, or choose another port with --https-listen-port"
	for _, c := range []struct {
		name string
		port Port
		pid  int
		want string
	}{
		{"taken on loopback, wanted everywhere", api, 0, "port 6443 for the API server is taken by k3s-server (pid 812)" + fix},
		{"taken on loopback, wanted there", Port{Number: 6443, Address: loopback, For: "API server"}, 0, "port 6443 for the API server is taken by k3s-server (pid 812): stop it"},
		{"taken on loopback, wanted elsewhere", Port{Number: 6443, Address: other, For: "API server"}, 0, ""},
		{"taken everywhere, wanted on an address", Port{Number: 10114, Address: other, For: "x"}, 0, "port 10114 for the x is taken by brink (pid 900): stop it"},
		{"taken by the running brink", Port{Number: 10114, Address: other, For: "x"}, 900, ""},
		{"a connection is no listener", Port{Number: 10120, Address: loopback, For: "x"}, 0, ""},
		{"IPv6 listens for IPv4 as well", Port{Number: 10112, Address: other, For: "x"}, 0, "port 10112 for the x is taken by a process that cannot be seen from here: stop it"},
		{"IPv4 address in a table of IPv6", Port{Number: 10113, Address: loopback, For: "x"}, 0, "port 10113 for the x is taken by nginx (pid 901): stop it"},
		{"taken over UDP", Port{Number: 8472, UDP: true, For: "x"}, 0, "port 8472/udp for the x is taken by k3s-server (pid 812): stop it"},
		{"taken over UDP, wanted over TCP", Port{Number: 8472, For: "x"}, 0, ""},
		{"the kernel's own", Port{Number: 4789, UDP: true, For: "x"}, 0, ""},
		{"free", Port{Number: 8080, Address: loopback, For: "x"}, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			checks := m.checkPorts(CheckOptions{Ports: []Port{c.port}, PID: c.pid})
			var want []wanted
			if c.want != "" {
				name, _, _ := strings.Cut(c.want, " for ")
				want = []wanted{{name, Fail, c.want}}
			}
			requireChecks(t, checks, want)
		})
	}
}

func TestPortsOfOurOwn(t *testing.T) {
	t.Parallel()
	m := build(t, files{}, nil)
	m.bind = func(a netip.Addr) error {
		if a == netip.MustParseAddr("203.0.113.9") {
			return os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
		}
		return nil
	}
	server := func(number uint16, address string) Port {
		p := Port{Number: number, For: "API server", Flag: "--https-listen-port"}
		if address != "" {
			p.Address = netip.MustParseAddr(address)
		}
		return p
	}
	kubelet := Port{Number: 10250, For: "kubelet", Flag: "--kubelet-arg=port=PORT"}
	requireChecks(t, m.checkPorts(CheckOptions{Ports: []Port{server(10250, ""), kubelet}}), []wanted{
		{"port 10250", Fail, "port 10250 is wanted for the API server and for the kubelet: choose another for one of them with --https-listen-port or --kubelet-arg=port=PORT"},
	})
	requireChecks(t, m.checkPorts(CheckOptions{Ports: []Port{server(6443, "203.0.113.9"), kubelet}}), []wanted{
		{"port 6443", Fail, "203.0.113.9 for the API server is no address of this machine: give one that ip address shows, or leave it out for all"},
	})
	udp := Port{Number: 10250, UDP: true, For: "x"}
	requireChecks(t, m.checkPorts(CheckOptions{Ports: []Port{udp, kubelet, server(6443, "192.0.2.7")}}), nil)
}

// TestBind asks the kernel itself.
func TestBind(t *testing.T) {
	t.Parallel()
	if err := bind(netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Error(err)
	}
	if err := bind(netip.MustParseAddr("203.0.113.9")); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("an address of nobody here: %v", err)
	}
}
