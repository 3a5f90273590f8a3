package nodeaddr

import "testing"

func TestParseDefault(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name, line string
		v4         bool
		link       string
		metric     uint64
		ok         bool
	}{
		{"default", "eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0", true, "eth0", 100, true},
		{"another route", "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0", true, "", 0, false},
		{"half of everything is not default", "tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0", true, "", 0, false},
		{"heading", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT", true, "", 0, false},
		{"v6 default", "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth0", false, "eth0", 0x400, true},
		{"v6 unreachable default on lo", "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo", false, "", 0, false},
		{"v6 link local", "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0", false, "", 0, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			link, metric, ok := parseDefault(c.line, c.v4)
			if ok != c.ok || ok && (link != c.link || metric != c.metric) {
				t.Errorf("got %q %d %v", link, metric, ok)
			}
		})
	}
}
