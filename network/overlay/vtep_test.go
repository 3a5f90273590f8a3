package overlay

import (
	"strings"
	"testing"

	"brink/internal/testaddr"
)

// TestVTEPMAC: every node computes it of every other, in every version of brink.
func TestVTEPMAC(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ want, cidrs string }{
		{"3e:7c:0d:5e:bb:fb", "10.42.1.0/24"},
		{"3e:7c:0d:5e:bb:fb", "10.42.1.0/24 fd42:0:0:1::/64"},
		{"3e:7c:0d:5e:bb:fb", "fd42:0:0:1::/64 10.42.1.0/24"},
	} {
		if got := vtepMAC(testaddr.Prefixes(strings.Fields(tt.cidrs)...)).String(); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.cidrs, got, tt.want)
		}
	}
	if got := vtepHop(testaddr.Prefixes("fd42::/64")[0], vtepMAC(testaddr.Prefixes("10.42.1.0/24"))).String(); got != "fe80::3c7c:dff:fe5e:bbfb" {
		t.Errorf("next hop is %s", got)
	}
	if a := vtepMAC(testaddr.Prefixes("fd42::/64")); a[0]&3 != 2 {
		t.Errorf("%s is not a local unicast address", a)
	}
}
