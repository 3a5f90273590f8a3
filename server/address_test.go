package server

import (
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"brink/network/nodeaddr"
)

func address(ip string, gone bool) []nodeaddr.Address {
	return []nodeaddr.Address{{IP: netip.MustParseAddr(ip), Link: "eth0", Gone: gone}}
}

// TestMovedServer: what the machine has minute by minute, and whether its server ends.
func TestMovedServer(t *testing.T) {
	t.Parallel()
	at := address("192.0.2.7", false)
	last := address("192.0.2.7", true)
	other, another := address("192.0.2.9", false), address("192.0.2.10", false)
	six, sixth := address("2001:db8::7", false), address("2001:db8::8", false)
	sixGone := address("2001:db8::7", true)
	for _, tt := range []struct {
		name  string
		begun []nodeaddr.Address
		then  [][]nodeaddr.Address
		want  string // of the error, "" for none
	}{
		{"nothing changes", at, [][]nodeaddr.Address{at}, ""},
		{"DHCP gives another address", at, [][]nodeaddr.Address{at, other}, "started with 192.0.2.7 of eth0, which is in its certificate and what pods ask, and is at 192.0.2.9 of eth0 now"},
		{"the cable is out", at, [][]nodeaddr.Address{last}, ""},
		{"the cable was out", at, [][]nodeaddr.Address{last, at}, ""},
		{"it never comes", last, [][]nodeaddr.Address{last}, ""},
		{"it comes as before", last, [][]nodeaddr.Address{last, at}, ""},
		{"it comes with another address", last, [][]nodeaddr.Address{other}, "192.0.2.9 of eth0 now"},
		{"IPv6 comes late", at, [][]nodeaddr.Address{at, slices.Concat(at, six)}, ""},
		{"IPv6 has another prefix", slices.Concat(at, six), [][]nodeaddr.Address{slices.Concat(at, six), slices.Concat(at, sixth)}, ""},
		{"IPv6 is gone and IPv4 another", slices.Concat(at, six), [][]nodeaddr.Address{slices.Concat(other, sixGone)}, "192.0.2.9 of eth0 now"},
		{"IPv6 alone has another prefix", six, [][]nodeaddr.Address{sixth}, "2001:db8::8 of eth0 now"},
		{"IPv4 is gone and not the first", slices.Concat(six, at), [][]nodeaddr.Address{slices.Concat(six, last)}, ""},
		{"it has settled on the third", at, [][]nodeaddr.Address{other, another}, "192.0.2.9 of eth0 now"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := newCertified(slog.New(slog.DiscardHandler), tt.begun[0])
			var err error
			for _, found := range tt.then {
				if err == nil {
					err = c.check(found)
				}
			}
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
