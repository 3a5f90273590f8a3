package network

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"brink/network/testnet"
)

func TestDroppingChains(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	list := func() string {
		chains, err := droppingChains(t.Context())
		testnet.Must(t, err)
		return fmt.Sprint(chains)
	}
	if got := list(); got != "[]" {
		t.Errorf("without rules: %s", got)
	}
	testnet.NFT(t, `
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }
add chain ip filter INPUT { type filter hook input priority filter; policy drop; }
add table ip6 filter
add chain ip6 filter FORWARD { type filter hook forward priority filter; policy accept; }
add table inet firewalld
add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy drop; }
add chain inet firewalld helper
add table bridge walls
add chain bridge walls FORWARD { type filter hook forward priority filter; policy drop; }
add table inet brink
add chain inet brink forward { type filter hook forward priority filter; policy drop; }`)
	if got := list(); got != "[ip filter FORWARD inet firewalld filter_FORWARD]" {
		t.Errorf("got %s", got)
	}
}

func TestParseDroppingChains(t *testing.T) {
	t.Parallel()
	if _, err := parseDroppingChains([]byte("nothing")); err == nil {
		t.Error("no error of what is no JSON")
	}
}

// TestFirewalls: a chain is named once, also one that comes later.
func TestFirewalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		testnet.Enter(t)
		log, lines := recordingLog()
		f := firewalls{log: log}
		step := func(what string, generation uint32, want int) {
			t.Helper()
			f.check(t.Context(), Config{}, generation)
			if len(*lines) != want {
				t.Errorf("%s: %q", what, *lines)
			}
		}
		const wall = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }"
		step("without rules", 1, 0)
		testnet.NFT(t, wall)
		step("listed again at once", 2, 0)
		time.Sleep(firewallsEvery)
		step("listed although no rule has changed", 1, 0)
		step("a firewall is not named", 2, 1)
		time.Sleep(firewallsEvery)
		step("named twice", 3, 1)
		testnet.NFT(t, "flush ruleset")
		time.Sleep(firewallsEvery)
		step("gone", 4, 1)
		testnet.NFT(t, wall)
		time.Sleep(firewallsEvery)
		step("not named when it comes back", 5, 2)
	})
}

// TestHostFirewall: pods reach each other where a firewall that drops forwarded
// packets lets the cluster's range through, and not where it does not.
func TestHostFirewall(t *testing.T) {
	t.Parallel()
	for _, backend := range []Backend{VXLAN, HostGW} {
		t.Run(string(backend), func(t *testing.T) {
			t.Parallel()
			s := testnet.DualStack
			nodes := cluster(t, s, backend, backend)
			testnet.Meet(t, nodes...)
			for _, n := range nodes {
				n.Sh(t, "nft 'add table inet wall; add chain inet wall forward { type filter hook forward priority 10; policy drop; }'")
			}
			if _, err := testnet.Call(nodes[0].Pod, s.PodAddrs(2)[0], time.Second); err == nil {
				t.Error("the firewall drops nothing, this test shows nothing")
			}
			for _, n := range nodes {
				n.Sh(t, "nft 'add rule inet wall forward ip saddr 10.42.0.0/16 accept; add rule inet wall forward ip daddr 10.42.0.0/16 accept; "+
					"add rule inet wall forward ip6 saddr fd42::/56 accept; add rule inet wall forward ip6 daddr fd42::/56 accept'")
			}
			testnet.Meet(t, nodes...)
		})
	}
}
