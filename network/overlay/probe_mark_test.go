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
	s := testnet.DualStack
	nodes := cluster(t, s, VXLAN, VXLAN)
	testnet.Meet(t, nodes...)
	for _, n := range nodes {
		n.stop() // nobody else touches the device
	}
	peer := netip.MustParseAddr("10.42.2.0")
	nodes[1].Sh(t, "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in iifname brink-vxlan meta l4proto udp drop'")
	probing := testnet.Start(nodes[0].NS, func() error {
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
	state := func() (on bool, alias string) {
		testnet.Inside(t, nodes[0].NS, func() error {
			link, err := netlink.LinkByName(DefaultDevice)
			testnet.Must(t, err)
			on, err = hasChecksumOffload(DefaultDevice)
			alias = link.Attrs().Alias
			return err
		})
		return on, alias
	}
	testnet.Eventually(t, "the offload to be off", func() bool { on, _ := state(); return !on })
	if _, alias := state(); alias != probeAlias {
		t.Errorf("while the offload is off for a probe the alias is %q", alias)
	}
	testnet.Must(t, <-probing)
	if on, alias := state(); !on || alias != "" {
		t.Errorf("after the probe: on %t, alias %q", on, alias)
	}

	undone := func(alias string) (off bool) {
		testnet.Inside(t, nodes[0].NS, func() error {
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
	if undone(probeAlias) {
		t.Error("what a killed probe left is taken for its verdict")
	}
	if on, alias := state(); !on || alias != "" {
		t.Errorf("after a killed probe: on %t, alias %q", on, alias)
	}
	if !undone("the owner's own") {
		t.Error("an offload that was switched off for good is switched on again")
	}
	if on, alias := state(); on || alias != "the owner's own" {
		t.Errorf("off for good: on %t, alias %q", on, alias)
	}
}
