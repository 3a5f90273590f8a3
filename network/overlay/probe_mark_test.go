package overlay

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"brink/network/testnet"
)

// TestKilledProbe: whatever moment a brink is killed at, the next one leaves the
// offload as it was before the probe. What is seen is each state that the kernel
// is in while a probe asks, and what a new prober makes of it.
func TestKilledProbe(t *testing.T) {
	t.Parallel()
	nodes := cluster(t, testnet.DualStack, VXLAN, VXLAN)
	testnet.Meet(t, nodes...)
	for _, n := range nodes {
		n.stop() // nobody else touches the device
	}
	one, peer := nodes[0], netip.MustParseAddr("10.42.2.0")
	nodes[1].Sh(t, "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in iifname brink-vxlan meta l4proto udp drop'")
	wantState := func(when string, wantOn bool, wantAlias string) {
		t.Helper()
		if on, alias := offloadState(t, one); on != wantOn || alias != wantAlias {
			t.Errorf("%s: on %t, alias %q", when, on, alias)
		}
	}
	probing := testnet.Start(one.NS, func() error {
		p, err := openProbe(slog.Default(), DefaultDevice, peer, 2*time.Second)
		if err != nil {
			return err
		}
		defer p.close()
		if v := p.run(false); v != unanswered {
			return fmt.Errorf("got %q", v)
		}
		return nil
	})
	testnet.Eventually(t, "the offload to be off", func() bool { on, _ := offloadState(t, one); return !on })
	wantState("during the probe", false, probeAlias)
	testnet.Must(t, <-probing)
	wantState("after the probe", true, "")
	if foundOff(t, one, probeAlias, peer) {
		t.Error("what a killed probe left is taken for its verdict")
	}
	wantState("after a killed probe", true, "")
	if !foundOff(t, one, "the owner's own", peer) {
		t.Error("an offload that was switched off for good is switched on again")
	}
	wantState("off for good", false, "the owner's own")
}

// offloadState is that of a node's VXLAN device.
func offloadState(t *testing.T, n *testNode) (on bool, alias string) {
	t.Helper()
	testnet.Inside(t, n.NS, func() error {
		link, err := netlink.LinkByName(DefaultDevice)
		testnet.Must(t, err)
		on, err = hasChecksumOffload(DefaultDevice)
		alias = link.Attrs().Alias
		return err
	})
	return on, alias
}

// foundOff switches the offload off, gives the device an alias, and reports whether a
// new prober takes that for a verdict.
func foundOff(t *testing.T, n *testNode, alias string, peer netip.Addr) (off bool) {
	t.Helper()
	testnet.Inside(t, n.NS, func() error {
		o, err := openChecksumOffload(DefaultDevice)
		testnet.Must(t, err)
		defer o.close()
		link, err := netlink.LinkByName(DefaultDevice)
		testnet.Must(t, err)
		testnet.Must(t, netlink.LinkSetAlias(link, alias))
		testnet.Must(t, o.switchOff())
		p := newProber(slog.Default())
		p.timeout = 100 * time.Millisecond
		p.setTargets([]netip.Addr{peer})
		p.start(DefaultDevice, func() {})
		off = p.off
		p.stop()
		return nil
	})
	return off
}
