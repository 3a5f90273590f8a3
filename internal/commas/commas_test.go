package commas

import (
	"net/netip"
	"testing"
)

func TestJoin(t *testing.T) {
	t.Parallel()
	if got := Join[netip.Addr](nil); got != "" {
		t.Errorf("of none: %q", got)
	}
	if got := Join([]netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/56")}); got != "10.42.0.0/16,fd42::/56" {
		t.Errorf("got %q", got)
	}
}
