package overlay

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"brink/network/testnet"
)

var deviceDiffs = []struct {
	reason string
	change func(*device)
	remade bool
}{
	{"its network identifier is 9, must be 1", func(d *device) { d.vni = 9 }, true},
	{"its UDP port is 4789, must be 8472", func(d *device) { d.port = 4789 }, true},
	{"its local address is 192.0.2.9, must be 192.0.2.1", func(d *device) { d.local = netip.MustParseAddr("192.0.2.9") }, true},
	{"it is carried by link number 3, must be by 2", func(d *device) { d.parent = 3 }, true},
	{"it learns from what it receives, but it is told its peers", func(d *device) { d.learning = true }, true},
	{"it floods what it has no peer for", func(d *device) { d.floods = true }, true},
	{"its MAC address is 00:00:00:00:00:00, must be " + macOf(1), func(d *device) { d.mac = mac{} }, false},
	{"its MTU is 9, must be 1450", func(d *device) { d.mtu = 9 }, false},
	{`its addresses are "10.42.9.0/32", must be "10.42.1.0/32"`, func(d *device) { d.addrs = "10.42.9.0/32" }, false},
	{"rp_filter is strict, but paths between nodes need not be the same in both directions", func(d *device) { d.strictRPFilter = true }, false},
	{"it believes router advertisements, but no node is a router of another", func(d *device) { d.acceptsRA = true }, false},
	{"it is down", func(d *device) { d.up = false }, false},
}

// TestDeviceDiff changes one property of a device behind brink's back.
func TestDeviceDiff(t *testing.T) {
	t.Parallel()
	for _, tt := range deviceDiffs {
		t.Run(tt.reason, func(t *testing.T) {
			t.Parallel()
			k, kernel := fakeNode(VXLAN)
			k.desired.SetPeers([]Peer{peer(2, "")})
			testnet.Must(t, reconcile(k))
			want := kernel.has.text()
			d := *kernel.has.device
			tt.change(&d)
			wanted := *kernel.has.device
			if got := wanted.whyRecreate(d); (got == tt.reason) != tt.remade {
				t.Errorf("made anew because %q", got)
			}
			if got := wanted.differences(d); !tt.remade && !slices.Equal(got, []string{tt.reason}) {
				t.Errorf("changed because %q", got)
			}
			kernel.has.device, kernel.log = &d, nil
			k.markDirty()
			testnet.Must(t, reconcile(k))
			if got := kernel.has.text(); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			if got := strings.Contains(kernel.changes(), "make link"); got != tt.remade {
				t.Errorf("made anew: %t, want %t", got, tt.remade)
			}
		})
	}
}
