package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/network/testnet"
)

func conflistMTU(t *testing.T, cfg Config) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(cfg.CNIConfDir, "10-brink.conflist"))
	testnet.Must(t, err)
	for line := range strings.Lines(string(data)) {
		if _, mtu, ok := strings.Cut(line, `"mtu": `); ok {
			return strings.TrimSuffix(strings.TrimSpace(mtu), ",")
		}
	}
	return "none"
}

// TestMTUFollows the link.
func TestMTUFollows(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	nodes := cluster(t, s, VXLAN, VXLAN)
	testnet.Meet(t, nodes...)
	for _, mtu := range []int{1400, 1500, 1320} {
		nodes[0].Sh(t, fmt.Sprintf("ip link set eth0 mtu %d", mtu))
		testnet.Eventually(t, "MTU follows", func() bool {
			want := max(mtu-50, 1280)
			return conflistMTU(t, nodes[0].cfg) == fmt.Sprint(want) && strings.Contains(routesOf(t, nodes[0].NS), fmt.Sprintf(" mtu %d ", want))
		})
		testnet.Meet(t, nodes...)
	}
}
