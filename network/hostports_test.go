package network

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"brink/network/testnet"
)

// TestHostPortsComeBack: whatever somebody deletes of them, at once where a table goes.
func TestHostPortsComeBack(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	testnet.EnterSegment(t)
	n := newNode(t, s, 0, 1, None)
	outside := testnet.Stranger(t, s)
	n.GivePorts(t, n.cfg.CNIStateDir, n.cfg.cniCacheDir, "one")
	n.run(t)
	reached := func(what string) {
		t.Helper()
		for _, at := range []string{"192.0.0.1:80", "192.0.0.1:81", "[2001:db8::1]:80"} {
			testnet.Eventually(t, what+": "+at, func() bool {
				_, err := testnet.CallPort(outside, netip.MustParseAddrPort(at), 300*time.Millisecond)
				return err == nil
			})
		}
		if _, err := testnet.CallPort(outside, netip.MustParseAddrPort("[2001:db8::1]:81"), 300*time.Millisecond); err == nil {
			t.Error("a port of an IPv4 address answers by IPv6")
		}
		if got := n.Sh(t, "nft list ruleset"); strings.Count(got, "dport 80 dnat") != 2 || strings.Count(got, "dport 81 dnat") != 1 {
			t.Errorf("%s:\n%s", what, got)
		}
	}
	reached("deleted while brink did not run")
	for _, damage := range []string{"nft flush ruleset", "nft delete table ip cni_hostport", "nft delete table ip6 cni_hostport", "nft flush ruleset; nft add table ip cni_hostport; nft add chain ip cni_hostport hostports"} {
		n.Sh(t, damage)
		reached(damage)
	}
	// In a table that is the same it takes a second check, since a pod may be going.
	n.Sh(t, "nft flush chain ip cni_hostport hostports")
	testnet.Eventually(t, "the ports are back", func() bool {
		signal(n.network.wake)
		return strings.Contains(n.Sh(t, "nft list table ip cni_hostport"), "dport 80 dnat")
	})
	reached("rules deleted")
}
