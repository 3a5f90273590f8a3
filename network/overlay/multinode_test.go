package overlay

import (
	"strings"
	"testing"

	"brink/network/testnet"
)

func TestVXLAN(t *testing.T) {
	t.Parallel()
	for name, s := range testnet.AllStacks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, VXLAN, VXLAN, VXLAN)
			testnet.Meet(t, nodes...)
			for _, n := range nodes {
				if err := n.err(); err != nil {
					t.Error(err)
				}
				if got := entriesOf(t, n.NS); strings.Contains(got, "strict") || strings.Contains(got, "accepts-ra") {
					t.Errorf("the device has a setting of a real network's link:\n%s", got)
				}
			}
		})
	}
}

func TestHostGW(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"IPv4", "IPv6", "dual stack"} {
		s := testnet.AllStacks[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := cluster(t, s, HostGW, HostGW, HostGW)
			testnet.Meet(t, nodes...)
			if got := entriesOf(t, nodes[0].NS); strings.Contains(got, "link") {
				t.Errorf("a device without need:\n%s", got)
			}
		})
	}
}

// TestMixedBackends has nodes before and after the change.
func TestMixedBackends(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	nodes := cluster(t, s, VXLAN, HostGW, HostGW, None)
	testnet.Meet(t, nodes[:3]...)
	if got := entriesOf(t, nodes[3].NS); got != "" {
		t.Errorf("the node without a backend has\n%s", got)
	}
	direct := "route 10.42.3.0/24 via 192.0.0.3 dev 2\n"
	if got := entriesOf(t, nodes[1].NS); !strings.Contains(got, direct) || !strings.Contains(got, "route 10.42.1.0/24 via 10.42.1.0") || strings.Contains(got, "10.42.4.0") {
		t.Errorf("node 2 has\n%s", got)
	}
}
