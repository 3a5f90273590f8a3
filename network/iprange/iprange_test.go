package iprange

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"brink/internal/testaddr"
)

func TestWithin(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		prefix, wider string
		want          bool
	}{
		{"10.42.1.0/24", "10.42.0.0/16", true},
		{"10.42.0.0/16", "10.42.0.0/16", true},
		{"10.0.0.0/8", "10.42.0.0/16", false},
		{"10.43.1.0/24", "10.42.0.0/16 fd42::/56", false},
		{"fd42:0:0:1::/64", "10.42.0.0/16 fd42::/56", true},
		{"10.42.1.0/24", "", false},
	} {
		if got := Within(netip.MustParsePrefix(tt.prefix), testaddr.Prefixes(strings.Fields(tt.wider)...)); got != tt.want {
			t.Errorf("%s in %s: %t", tt.prefix, tt.wider, got)
		}
	}
}

func TestFamilies(t *testing.T) {
	t.Parallel()
	addrs := []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	if a, ok := SameFamily(addrs, netip.MustParseAddr("10.0.0.1")); !ok || a != addrs[1] {
		t.Errorf("of IPv4: %s, %t", a, ok)
	}
	if a, ok := SameFamily(addrs[1:], netip.MustParseAddr("fd00::1")); ok {
		t.Errorf("of IPv6 there is %s", a)
	}
	mixed := testaddr.Prefixes(strings.Fields("fd42::/56 10.42.0.0/16")...)
	if got := fmt.Sprint(IPv4First(mixed)); got != "[10.42.0.0/16 fd42::/56]" || mixed[0].Addr().Is4() {
		t.Errorf("IPv4 first: %s, of %v", got, mixed)
	}
	if !Has6(mixed) || Has6(mixed[1:]) || Has6(nil) {
		t.Error("IPv6 is seen where there is none, or not seen")
	}
}

func TestOnePerFamily(t *testing.T) {
	t.Parallel()
	for texts, want := range map[string]string{
		"10.42.0.0/16 fd42::/56":    "",
		"":                          "",
		"10.42.0.0/16 10.44.0.0/16": "pods' range 10.42.0.0/16 and 10.44.0.0/16 are of one address family",
		"10.42.0.1/16":              "pods' range 10.42.0.1/16 is not a network prefix",
	} {
		err := OnePerFamily("pods' range", testaddr.Prefixes(strings.Fields(texts)...))
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%q: got %s, want %s", texts, got, want)
		}
	}
}
