package overlay

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"brink/internal/testaddr"
)

// TestProbesAreRare follows the prober through its verdicts.
func TestProbesAreRare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProber(slog.Default())
		end := func(v verdict) (changed bool) {
			p.cancel = func() {}
			p.result <- v
			return p.collect("brink-vxlan")
		}
		first, second := probeScope{netip.MustParseAddr("192.0.2.1"), 2}, probeScope{netip.MustParseAddr("192.0.2.1"), 3}
		p.mustSwitchOff(first)
		var waits []time.Duration
		for i := range 12 {
			if changed, want := end(unreached), i == silentProbes-1; changed != want {
				t.Errorf("after %d probes without an answer there is something to report: %t", i+1, changed)
			}
			waits = append(waits, time.Until(p.next))
		}
		if waits[0] != firstProbeAgain || waits[1] != 2*firstProbeAgain || waits[11] != lastSilentAgain {
			t.Errorf("asks again after %v", waits)
		}
		if changed := end(unanswered); !changed || p.isSilent() || time.Until(p.next) != lastProbeAgain {
			t.Errorf("after an answer: something to report %t, silent %t", changed, p.isSilent())
		}
		if end(broken); !p.settled || !p.mustSwitchOff(first) {
			t.Error("forgets that the offload is broken")
		}
		if p.mustSwitchOff(second) || p.settled || !p.next.IsZero() {
			t.Error("believes the same of other hardware")
		}
	})
}

// TestNewTargetsAreAskedFirst, and are not taken for silent because others were.
func TestNewTargetsAreAskedFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newProber(slog.Default())
		silent := func() {
			p.cancel = func() {}
			p.result <- unreached
			p.collect("brink-vxlan")
		}
		targets := func(want ...netip.Addr) {
			t.Helper()
			if !slices.Equal(p.targets, want) {
				t.Errorf("asks %v, want %v", p.targets, want)
			}
		}
		all := testaddr.Addrs("10.42.1.0", "10.42.2.0", "10.42.3.0")
		p.setTargets(all[:2])
		for range silentProbes {
			silent()
		}
		p.setTargets(all[:2])
		if targets(all[0], all[1]); !p.isSilent() || p.tries == 0 {
			t.Error("has forgotten that nobody answers")
		}
		p.setTargets(all)
		if targets(all[2], all[0], all[1]); p.isSilent() || p.tries != 0 || !p.next.IsZero() {
			t.Error("says of somebody new that he is silent")
		}
		for range silentProbes {
			silent()
		}
		p.setTargets(all[1:])
		if targets(all[2], all[1]); !p.isSilent() {
			t.Error("has forgotten it because somebody went")
		}
		p.setTargets(nil)
		targets()
		p.setTargets(all[:1])
		if targets(all[0]); p.isSilent() {
			t.Error("says of the next one that he is silent")
		}
	})
}
