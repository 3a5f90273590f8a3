package nftables

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/knftables"

	"brink/network/testnet"
)

// TestWatch: each transaction is reported once, however much is in it, and nothing
// when nothing changes.
func TestWatch(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	reported := make(chan struct{}, 1000)
	testnet.Must(t, Watch(ctx, func() { reported <- struct{}{} }))
	count := func() (n int) {
		for wait := testnet.Patience; ; wait = 200 * time.Millisecond {
			select {
			case <-reported:
				n++
			case <-time.After(wait):
				return n
			}
		}
	}
	var elements []string
	for n := range 200 {
		elements = append(elements, fmt.Sprintf("10.0.0.%d", n))
	}
	for _, change := range []string{
		"add table ip somebody; add set ip somebody many { type ipv4_addr; }; add chain ip somebody many-rules; add element ip somebody many { " + strings.Join(elements, ", ") + " }",
		"add rule ip somebody many-rules ip saddr @many drop",
		"flush ruleset",
	} {
		testnet.NFT(t, change)
		testnet.NFT(t, "list ruleset")
		if got := count(); got != 1 {
			t.Errorf("%d messages of %.50q, want 1", got, change)
		}
	}
}

func TestTableShape(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	shape := func(family, name string) TableShape {
		shape, err := InspectTable(family, name)
		testnet.Must(t, err)
		return shape
	}
	if got := shape("ip", "a"); got != (TableShape{}) {
		t.Errorf("of no table: %v", got)
	}
	const table = "; add chain ip a pre { type nat hook prerouting priority dstnat; }; add chain ip a more; add rule ip a pre jump more; add set ip a s { type ipv4_addr; }"
	testnet.NFT(t, "add table ip a"+table+"; add table ip b; add table ip6 a")
	seen := map[TableShape]string{shape("ip", "a"): "at first", shape("ip", "b"): "of another table", shape("ip6", "a"): "of another family"}
	if len(seen) != 3 {
		t.Errorf("tables have one shape: %v", seen)
	}
	first := shape("ip", "a")
	for _, harmless := range []string{"add rule ip a more drop", "add element ip a s { 10.0.0.1 }", "add chain ip a third", "add table ip c"} {
		testnet.NFT(t, harmless)
		if got := shape("ip", "a"); got != first {
			t.Errorf("after %q: %v, want %v", harmless, got, first)
		}
	}
	for _, damage := range []string{"flush chain ip a pre", "flush table ip a; delete chain ip a pre", "delete table ip a; add table ip a" + table, "flush ruleset"} {
		testnet.NFT(t, damage)
		if got := shape("ip", "a"); seen[got] != "" {
			t.Errorf("after %q it has the shape of %s", damage, seen[got])
		} else {
			seen[got] = "after " + damage
		}
	}
}

// TestTables: the kernel names the tables of all families, also where there is no nft, and
// one that is not there needs no program to be removed.
func TestTables(t *testing.T) {
	testnet.Enter(t)
	tables := func() []string {
		t.Helper()
		list, err := Tables()
		testnet.Must(t, err)
		slices.Sort(list)
		return list
	}
	if got := tables(); len(got) > 0 {
		t.Errorf("in a new namespace: %q", got)
	}
	want := []string{"arp a", "bridge a", "inet " + strings.Repeat("a", 200), "ip a", "ip b", "ip6 a"}
	for _, table := range want {
		testnet.NFT(t, "add table "+table)
	}
	t.Setenv("PATH", t.TempDir())
	if got := tables(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	testnet.Must(t, RemoveTable(t.Context(), knftables.IPv6Family, "b"))
	if err := RemoveTable(t.Context(), knftables.IPv6Family, "a"); err == nil || !strings.Contains(err.Error(), "ip6 a: the program nft is not on this host") {
		t.Errorf("without nft: %v", err)
	}
}
