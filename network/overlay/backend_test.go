package overlay

import (
	"testing"
)

func TestBetween(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ own, peer, want Backend }{
		{VXLAN, VXLAN, VXLAN}, {VXLAN, HostGW, VXLAN}, {HostGW, VXLAN, VXLAN}, {HostGW, HostGW, HostGW},
		{VXLAN, "", VXLAN}, {HostGW, "", HostGW},
		{None, VXLAN, None}, {HostGW, None, None}, {None, "", None},
	} {
		if got := between(tt.own, tt.peer); got != tt.want {
			t.Errorf("between %s and %q: %s, want %s", tt.own, tt.peer, got, tt.want)
		}
		if back := between(tt.peer, tt.own); tt.peer != "" && back != tt.want {
			t.Errorf("between %q and %s: %s, want %s", tt.peer, tt.own, back, tt.want)
		}
	}
}

func TestParseBackend(t *testing.T) {
	t.Parallel()
	for _, b := range []Backend{VXLAN, HostGW, None} {
		if got, err := ParseBackend(string(b)); err != nil || got != b {
			t.Errorf("%s: %s, %v", b, got, err)
		}
	}
	if _, err := ParseBackend("wireguard"); err == nil || err.Error() != `network backend "wireguard" is none of vxlan, host-gw, none` {
		t.Errorf("got %v", err)
	}
}
