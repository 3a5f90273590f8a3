package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"brink/internal/testaddr"
	"brink/network/overlay"
	"brink/network/testnet"
)

// forged is what somebody sends to the port of a tunnel: a frame with a datagram to
// the pod of node 1 or 2, from an address of the other one's pods that nobody has.
func forged(t *testing.T, to *testNode, text string) []byte {
	t.Helper()
	payload := append([]byte{0, 53, 0x23, 0x28, 0, byte(8 + len(text)), 0, 0}, text...) // port 53 to 9000, without checksum
	ip := []byte{0x45, 0, 0, byte(20 + len(payload)), 0, 0, 0, 0, 64, 17, 0, 0, 10, 42, byte(3 - to.Number), 99, 10, 42, byte(to.Number), 10}
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	frame := append(tunnelMAC(t, to), 2, 0, 0, 0, 0, 0x99, 8, 0)
	header := []byte{8, 0, 0, 0, 0, 0, overlay.DefaultVNI, 0}
	return append(append(append(header, frame...), ip...), payload...)
}

// tunnelMAC is the MAC address of a node's end of the tunnel.
func tunnelMAC(t *testing.T, n *testNode) (mac []byte) {
	t.Helper()
	testnet.Inside(t, n.NS, func() error {
		link, err := netlink.LinkByName(overlay.DefaultDevice)
		if err == nil {
			mac = link.Attrs().HardwareAddr
		}
		return err
	})
	return mac
}

// hear returns what comes to a UDP port in a namespace.
func hear(t *testing.T, ns netns.NsHandle, addr string) (<-chan string, func() error) {
	t.Helper()
	var conn net.PacketConn
	testnet.Inside(t, ns, func() (err error) {
		conn, err = net.ListenPacket("udp", addr)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	heard := make(chan string, 100)
	go func() {
		buffer := make([]byte, 2000)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			heard <- fmt.Sprintf("%s from %s", buffer[:n], from.(*net.UDPAddr).AddrPort().Addr().Unmap())
		}
	}()
	return heard, conn.Close
}

// send sends one datagram from a namespace.
func send(t *testing.T, ns netns.NsHandle, to netip.AddrPort, payload []byte) {
	t.Helper()
	testnet.Inside(t, ns, func() error {
		conn, err := net.Dial("udp", to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(payload)
		return err
	})
}

// sendAs does the same with another's IPv4 address as source.
func sendAs(t *testing.T, ns netns.NsHandle, from netip.Addr, to netip.AddrPort, payload []byte) {
	t.Helper()
	udp := []byte{0x30, 0x39, byte(to.Port() >> 8), byte(to.Port()), 0, byte(8 + len(payload)), 0, 0}
	ip := []byte{0x45, 0, 0, byte(28 + len(payload)), 0, 0, 0, 0, 64, 17, 0, 0}
	ip = append(append(ip, from.AsSlice()...), to.Addr().AsSlice()...)
	testnet.Inside(t, ns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, append(append(ip, udp...), payload...), 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
	})
}

// settled waits for one datagram, then until no more comes, and returns what came.
func settled(heard <-chan string) (all []string) {
	for wait := testnet.Patience; ; wait = 500 * time.Millisecond {
		select {
		case text := <-heard:
			all = append(all, text)
		case <-time.After(wait):
			return all
		}
	}
}

// translate leads what is sent to a port of a node to another end, which is the tunnel of
// this or another node, as by a Service with such an endpoint.
func translate(t *testing.T, n *testNode, ends map[int]netip.AddrPort) {
	t.Helper()
	for port, end := range ends {
		family, unspecified := "ip", "0.0.0.0/0"
		if end.Addr().Is6() {
			family, unspecified = "ip6", "::/0"
		}
		n.Sh(t, fmt.Sprintf("nft 'add table %[1]s service; add chain %[1]s service pre { type nat hook prerouting priority dstnat; }; add chain %[1]s service post { type nat hook postrouting priority srcnat; }; "+
			"add rule %[1]s service pre udp dport %[2]d dnat to %[3]s; add rule %[1]s service post %[1]s daddr %[4]s udp dport 8472 masquerade; add rule %[1]s service post %[1]s saddr %[5]s return'",
			family, port, end, end.Addr(), unspecified))
	}
}

// TestForgedFrames: nobody but a peer gets a frame into the tunnel.
func TestForgedFrames(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]testnet.Stacks{"IPv4": {Underlay: "4", Pods: "46"}, "IPv6": {Underlay: "6", Pods: "46"}} {
		for _, backend := range []Backend{VXLAN, HostGW} {
			t.Run(name+", "+string(backend), func(t *testing.T) {
				t.Parallel()
				nodes := cluster(t, s, VXLAN, backend)
				testnet.Meet(t, nodes...)
				outside := testnet.Stranger(t, s)
				one, two := nodes[0], nodes[1]
				heardOne, _ := hear(t, one.Pod, "10.42.1.10:9000")
				heardTwo, _ := hear(t, two.Pod, "10.42.2.10:9000")
				to := func(n *testNode) netip.AddrPort { return netip.AddrPortFrom(n.cfg.Underlay[0], DefaultVXLANPort) }
				translate(t, one, map[int]netip.AddrPort{7001: to(one), 7002: to(two)})
				one.Sh(t, "sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.brink0.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0")
				send(t, one.NS, to(two), forged(t, two, "control to two"))
				send(t, two.NS, to(one), forged(t, one, "control to one"))

				send(t, one.Pod, to(two), forged(t, two, "pod to another node"))
				for _, other := range s.OnSegment(0, 98) {
					two.Sh(t, "ip addr add "+other+" dev eth0 $(case "+other+" in *:*) echo nodad;; esac)")
					end := netip.AddrPortFrom(netip.MustParsePrefix(other).Addr(), DefaultVXLANPort)
					send(t, one.Pod, end, forged(t, two, "pod to another address of another node"))
				}
				send(t, one.Pod, to(one), forged(t, one, "pod to its own node"))
				send(t, outside, to(one), forged(t, one, "stranger"))
				send(t, outside, to(two), forged(t, two, "stranger"))
				service := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(one.cfg.Underlay[0], port) }
				for _, from := range []netns.NsHandle{one.Pod, two.Pod, outside, two.NS} {
					send(t, from, service(7001), forged(t, one, "translated to the node itself"))
					send(t, from, service(7002), forged(t, two, "translated to another node"))
				}
				if name == "IPv4" {
					sendAs(t, one.Pod, two.cfg.Underlay[0], to(one), forged(t, one, "pod with a peer's address to its own node"))
					sendAs(t, one.Pod, one.cfg.Underlay[0], to(two), forged(t, two, "pod with its node's address to another"))
				}
				for want, heard := range map[string]<-chan string{"control to one from 10.42.2.99": heardOne, "control to two from 10.42.1.99": heardTwo} {
					if got := strings.Join(settled(heard), "\n"); got != want {
						t.Errorf("a pod got\n%s\nwant\n%s", got, want)
					}
				}
				testnet.Meet(t, nodes...)
				if got := one.Sh(t, "nft list chain inet brink tunnel"); strings.Count(got, "packets 0 ") == strings.Count(got, "packets ") {
					t.Errorf("nothing was counted:\n%s", got)
				}
			})
		}
	}
}

// TestPortOfOthers: what a pod sends to this port of somebody outside is masqueraded,
// whether it looks like a frame or not, and the answer finds back. What others send
// to a node with another identifier passes the guard.
func TestPortOfOthers(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]testnet.Stacks{"IPv4": {Underlay: "4", Pods: "4"}, "IPv6": {Underlay: "6", Pods: "6"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, VXLAN, VXLAN)
			testnet.Meet(t, nodes...)
			outside := testnet.Stranger(t, s)
			theirs := netip.AddrPortFrom(testnet.Bare(s.OnSegment(0, 99))[0], DefaultVXLANPort)
			heard, stop := hear(t, outside, theirs.String())
			node := nodes[0].cfg.Underlay[0].String()
			for _, payload := range [][]byte{[]byte("plain"), forged(t, nodes[1], "frame")} {
				send(t, nodes[0].Pod, theirs, payload)
				if got := strings.Join(settled(heard), "\n"); got != string(payload)+" from "+node {
					t.Errorf("outside came %q, want it from %s", got, node)
				}
			}
			testnet.Must(t, stop())
			// Somebody's own VXLAN, by the kernel's default port.
			theirEnd := theirs.Addr().String()
			nodes[0].Sh(t, "ip link add other type vxlan id 77 dstport 8472 remote "+theirEnd+" local "+node+"; ip addr add 10.99.0.1/24 dev other; ip link set other up")
			testnet.Sh(t, outside, "ip link add other type vxlan id 77 dstport 8472 remote "+node+" local "+theirEnd+"; ip addr add 10.99.0.2/24 dev other; ip link set other up")
			testnet.Listen(t, nodes[0].NS, netip.MustParseAddrPort("10.99.0.1:8080"))
			if got, err := testnet.Call(outside, "10.99.0.1", testnet.Patience); err != nil || got != "10.99.0.2" {
				t.Errorf("through somebody's own VXLAN arrives %q (%v)", got, err)
			}
		})
	}
}

// guardedPeers lists the peers in a node's sets.
func guardedPeers(t *testing.T, n *testNode) string {
	t.Helper()
	var table tableListing
	testnet.Inside(t, n.NS, func() (err error) {
		table, err = listOwnTable(t.Context())
		return err
	})
	var peers []netip.Addr
	for _, m := range table.members {
		if strings.HasPrefix(m.set, "peers-") {
			peers = append(peers, m.addr)
		}
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	return fmt.Sprint(peers)
}

// TestPeersOfTheGuard: a new peer is let in, one that has moved only from where it is
// now, one that has gone is not, and what somebody takes out comes back.
func TestPeersOfTheGuard(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	nodes := cluster(t, s, VXLAN, VXLAN)
	testnet.Meet(t, nodes...)
	wait := func(want string) {
		t.Helper()
		got := ""
		defer func() {
			if t.Failed() {
				t.Logf("has %s, want %s", got, want)
			}
		}()
		testnet.Eventually(t, "the set", func() bool { got = guardedPeers(t, nodes[0]); return got == want })
	}
	wait("[192.0.0.2 2001:db8::2]")
	third := newNode(t, s, 0, 3, HostGW)
	third.run(t)
	nodes = append(nodes, third)
	introduce(nodes...)
	wait("[192.0.0.2 192.0.0.3 2001:db8::2 2001:db8::3]")
	testnet.Meet(t, nodes...)

	moved := nodes[1].peer()
	moved.Underlay = testaddr.Addrs("192.0.0.22", "10.42.7.7")
	nodes[0].network.SetPeers([]Peer{moved})
	wait("[192.0.0.22]") // a pod's address is nobody's underlay
	introduce(nodes...)
	wait("[192.0.0.2 192.0.0.3 2001:db8::2 2001:db8::3]")
	for _, damage := range []string{"nft delete element inet brink peers-ip { 192.0.0.2 }", "nft add element inet brink peers-ip { 192.0.0.99 }", "nft flush set inet brink peers-ip6", "nft flush ruleset"} {
		nodes[0].Sh(t, damage)
		signal(nodes[0].network.wake) // the next tick is a day away
		wait("[192.0.0.2 192.0.0.3 2001:db8::2 2001:db8::3]")
	}
	testnet.Meet(t, nodes...)

	// A restart that hears of no peers, as without a server, cuts nobody off: also where
	// the table is gone, or of a brink that had no guard.
	for _, before := range []string{":", "nft flush ruleset", "nft flush ruleset; nft add table inet brink; nft add chain inet brink old"} {
		nodes[0].stop()
		nodes[0].Sh(t, before)
		nodes[0].run(t)
		if got := guardedPeers(t, nodes[0]); !strings.Contains(got, "192.0.0.2 192.0.0.3") {
			t.Errorf("after %q peers are %s", before, got)
		}
		testnet.Meet(t, nodes...)
	}
	nodes[0].network.SetPeers(nil)
	wait("[]")
}
