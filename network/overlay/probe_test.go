package overlay

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"brink/internal/testaddr"
	"brink/network/testnet"
)

// newCard makes the link "card" in a namespace, whose hardware is the returned
// file: each frame comes and goes there after a struct virtio_net_hdr. It
// promises to fill in checksums.
func newCard(t *testing.T, ns netns.NsHandle, addrs []string) *os.File {
	t.Helper()
	var card *os.File
	testnet.Inside(t, ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq("card")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return fmt.Errorf("making a TAP device: %w", err)
		}
		const tunFCsum = 1 // TUN_F_CSUM of linux/if_tun.h
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETOFFLOAD, tunFCsum); errno != 0 {
			return fmt.Errorf("promising checksums: %w", errno)
		}
		card = os.NewFile(uintptr(fd), "card") // can be waited for only now
		link, err := netlink.LinkByName("card")
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if err := testnet.AddAddr(link, a); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	})
	t.Cleanup(func() { card.Close() })
	return card
}

// cable carries frames from one card to another. What the header says is lost on
// the way, and that is all that is broken.
func cable(from, to *os.File, fillsIn func(frame []byte, start, offset int)) {
	const size = 10 // of struct virtio_net_hdr
	b := make([]byte, 1<<16)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if b[0]&1 != 0 { // VIRTIO_NET_HDR_F_NEEDS_CSUM
			fillsIn(b[size:n], int(native.Uint16(b[6:])), int(native.Uint16(b[8:])))
		}
		clear(b[:size])
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
	}
}

// fillOuter fills in the sum of RFC 1071 as a card does that knows IPv4 and UDP
// or TCP in it, but no tunnel: one further in it leaves as it is.
func fillOuter(frame []byte, start, offset int) {
	const afterHeaders = 14 + 20
	if start == afterHeaders {
		fill(frame, start, offset)
	}
}

func fill(frame []byte, start, offset int) {
	var sum uint32
	rest := frame[start:]
	for i, b := range rest {
		sum += uint32(b) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	rest[offset], rest[offset+1] = byte(^sum>>8), byte(^sum)
}

// cardNodes makes two nodes that are connected by such cards.
func cardNodes(t *testing.T, s testnet.Stacks, fills func([]byte, int, int)) []*testNode {
	t.Helper()
	testnet.Enter(t)
	var nodes []*testNode
	var cards []*os.File
	for n := 1; n <= 2; n++ {
		node := configured(t, testnet.Unplugged(t, s, 0, n), VXLAN)
		cards = append(cards, newCard(t, node.NS, s.OnSegment(0, n)))
		node.AddPod(t)
		nodes = append(nodes, node)
	}
	go cable(cards[0], cards[1], fills)
	go cable(cards[1], cards[0], fills)
	for _, n := range nodes {
		n.checkEvery = 100 * time.Millisecond
		n.run(t)
	}
	introduce(nodes...)
	return nodes
}

// TestBrokenChecksums has cards that do not know the tunnel.
func TestBrokenChecksums(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"IPv4", "dual stack pods on IPv4", "IPv6 pods over IPv4 only"} {
		s := testnet.AllStacks[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := cardNodes(t, s, fillOuter)
			testnet.Meet(t, nodes...)
			isOn(t, nodes[0], false)
			want := entriesOf(t, nodes[0].NS)
			nodes[0].Sh(t, "ip link del "+DefaultDevice)
			testnet.Eventually(t, "device and its offload restored", func() bool { return entriesOf(t, nodes[0].NS) == want })
			// It was that, and nothing else.
			nodes[0].stop()
			testnet.Inside(t, nodes[0].NS, func() error {
				o, err := openChecksumOffload(DefaultDevice)
				testnet.Must(t, err)
				defer o.close()
				return o.switchOn()
			})
			if _, err := testnet.Call(nodes[0].Pod, s.PodAddrs(2)[0], time.Second); err == nil {
				t.Error("arrives with offload too, the test shows nothing")
			}
		})
	}
}

func isOn(t *testing.T, node *testNode, want bool) {
	t.Helper()
	testnet.Inside(t, node.NS, func() error {
		if on, err := hasChecksumOffload(DefaultDevice); err != nil || on != want {
			t.Errorf("offload of node %d is %t, want %t (%v)", node.Number, on, want, err)
		}
		return nil
	})
}

// TestRightChecksums: cards that know the tunnel are left to their work.
func TestRightChecksums(t *testing.T) {
	t.Parallel()
	s := testnet.AllStacks["dual stack pods on IPv4"]
	nodes := cardNodes(t, s, fill)
	testnet.Meet(t, nodes...)
	isOn(t, nodes[0], true)
}

// TestProbeVerdicts asks a peer that has a firewall.
func TestProbeVerdicts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, rule string
		want       verdict
	}{
		{"open", "counter", works},
		{"UDP dropped", "meta l4proto udp drop", unanswered},
		{"all dropped", "drop", unreached},
	} {
		for _, to := range testaddr.Addrs("10.42.2.0", "fd42:0:0:2::") {
			t.Run(tt.name+" "+to.String(), func(t *testing.T) {
				t.Parallel()
				s := testnet.DualStack
				nodes := cluster(t, s, VXLAN, VXLAN)
				testnet.Meet(t, nodes...)
				nodes[1].Sh(t, "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in iifname brink-vxlan "+tt.rule+"'")
				testnet.Inside(t, nodes[0].NS, func() error {
					p, err := openProbe(slog.Default(), DefaultDevice, to, 300*time.Millisecond)
					testnet.Must(t, err)
					defer p.close()
					if got := p.run(false); got != tt.want {
						t.Errorf("got %q, want %q", got, tt.want)
					}
					return nil
				})
				isOn(t, nodes[0], true)
			})
		}
	}
}

// TestProbeWithoutAWay: of a device that went away nothing can be asked.
func TestProbeWithoutAWay(t *testing.T) {
	t.Parallel()
	ns := testnet.Enter(t)
	testnet.Inside(t, ns, func() error {
		for _, to := range testaddr.Addrs("10.42.2.0", "fd42:0:0:2::") {
			if p, err := openProbe(slog.Default(), "missing", to, time.Second); err == nil {
				p.close()
				t.Errorf("a probe to %s was opened, this test shows nothing", to)
			}
		}
		return nil
	})
}

// TestDeadMomentIsNoVerdict: packets are lost for just as long as the offload is
// on, once.
func TestDeadMomentIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	nodes := cluster(t, s, VXLAN, VXLAN)
	testnet.Meet(t, nodes...)
	nodes[1].Sh(t, "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in iifname brink-vxlan meta l4proto udp drop'")
	got := testnet.Start(nodes[0].NS, func() error {
		p, err := openProbe(slog.Default(), DefaultDevice, netip.MustParseAddr("10.42.2.0"), 2*time.Second)
		if err != nil {
			return err
		}
		defer p.close()
		if v := p.run(false); v != works {
			return fmt.Errorf("got %q", v)
		}
		return nil
	})
	testnet.Eventually(t, "the offload to be off", func() (off bool) {
		testnet.Inside(t, nodes[0].NS, func() error {
			on, err := hasChecksumOffload(DefaultDevice)
			off = !on
			return err
		})
		return off
	})
	nodes[1].Sh(t, "nft delete table inet wall")
	testnet.Must(t, <-got)
	isOn(t, nodes[0], true)
}
