package network

import (
	"fmt"
	"testing"
)

func TestDroppingChains(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	list := func() string {
		chains, err := droppingChains(t.Context())
		must(t, err)
		return fmt.Sprint(chains)
	}
	if got := list(); got != "[]" {
		t.Errorf("without rules: %s", got)
	}
	nft(t, `
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
	if got := list(); got != "[{ip filter FORWARD forward drop} {inet firewalld filter_FORWARD forward drop}]" {
		t.Errorf("got %s", got)
	}
}

func TestParseDroppingChains(t *testing.T) {
	t.Parallel()
	if _, err := parseDroppingChains([]byte("nothing")); err == nil {
		t.Error("no error of what is no JSON")
	}
}
