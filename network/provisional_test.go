package network

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestKilledProbe: whatever moment a brink is killed at, the next one leaves the
// offload as it was before the probe. What is seen is each state that the kernel
// is in while a probe asks, and what a new prober makes of it.
func TestKilledProbe(t *testing.T) {
	t.Parallel()
	s := allStacks["dual stack"]
	nodes := cluster(t, s, VXLAN, VXLAN)
	meet(t, s, nodes...)
	for _, n := range nodes {
		n.stop() // nobody else touches the device
	}
	peer := netip.MustParseAddr("10.42.2.0")
	sh(t, nodes[1].ns, "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0; }; add rule inet wall in iifname brink-vxlan meta l4proto udp drop'")
	probing := start(nodes[0].ns, func() error {
		p, err := openProbe(DefaultVXLANDevice, peer, 2*time.Second)
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
		inside(t, nodes[0].ns, func() error {
			link, err := netlink.LinkByName(DefaultVXLANDevice)
			must(t, err)
			on, err = hasChecksumOffload(DefaultVXLANDevice)
			alias = link.Attrs().Alias
			return err
		})
		return on, alias
	}
	eventually(t, "the offload to be off", func() bool { on, _ := state(); return !on })
	if _, alias := state(); alias != provisionalAlias {
		t.Errorf("while the offload is off for a probe the alias is %q", alias)
	}
	must(t, <-probing)
	if on, alias := state(); !on || alias != "" {
		t.Errorf("after the probe: on %t, alias %q", on, alias)
	}

	undone := func(alias string) (off bool) {
		inside(t, nodes[0].ns, func() error {
			o, err := openChecksumOffload(DefaultVXLANDevice)
			must(t, err)
			defer o.close()
			link, err := netlink.LinkByName(DefaultVXLANDevice)
			must(t, err)
			must(t, netlink.LinkSetAlias(link, alias))
			must(t, o.switchOff())
			p := newProber()
			p.timeout = 100 * time.Millisecond
			p.ask([]netip.Addr{peer})
			p.begin(DefaultVXLANDevice, func() {})
			off = p.off
			p.stop()
			return nil
		})
		return off
	}
	if undone(provisionalAlias) {
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
