package overlay

import (
	"fmt"
	"strings"
	"testing"

	"brink/network/testnet"
)

// TestMTU: of pods, and of the device, by the underlay's.
func TestMTU(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name                  string
		stacks                string
		backend               Backend
		link, config          int
		pods, device, warning string
	}{
		{"vxlan", "IPv4", VXLAN, 1500, 0, "1450", "1450", ""},
		{"vxlan over IPv6", "IPv6", VXLAN, 1500, 0, "1430", "1430", ""},
		{"jumbo frames", "dual stack", VXLAN, 9000, 0, "8950", "8950", ""},
		{"host-gw", "dual stack", HostGW, 1500, 0, "1500", "", ""},
		{"none", "IPv4", None, 1500, 0, "0", "", ""},
		{"configured", "IPv4", VXLAN, 1500, 1400, "1400", "1400", ""},
		{"configured too large", "IPv4", VXLAN, 1500, 1500, "1500", "1450",
			"packets of pods may have 1500 bytes, but only 1450 fit through link eth0 to other nodes (MTU 1500), so they are sent in pieces or lost: raise the link's MTU to 1550"},
		{"little", "IPv4", VXLAN, 1300, 0, "1250", "1250", ""},
		{"too little for IPv6", "dual stack pods on IPv4", VXLAN, 1300, 0, "1280", "1280",
			"packets of pods may have 1280 bytes, but only 1250 fit through link eth0 to other nodes (MTU 1300), so they are sent in pieces or lost: raise the link's MTU to 1330"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := testnet.AllStacks[tt.stacks]
			testnet.EnterSegment(t)
			var nodes []*testNode
			for n := 1; n <= 2; n++ {
				node := newNode(t, s, 0, n, tt.backend)
				node.cfg.PodMTU = tt.config
				node.Sh(t, fmt.Sprintf("ip link set eth0 mtu %d", tt.link))
				node.run(t)
				nodes = append(nodes, node)
			}
			if got := fmt.Sprint(nodes[0].podMTU()); got != tt.pods {
				t.Errorf("pods have %s, want %s", got, tt.pods)
			}
			introduce(nodes...)
			if tt.backend != None && tt.link <= 1500 {
				testnet.Meet(t, nodes...)
			}
			if tt.device != "" {
				testnet.Eventually(t, "device", func() bool { return strings.Contains(entriesOf(t, nodes[0].NS), " mtu "+tt.device+" ") })
			}
			if got := nodes[0].err(); fmt.Sprint(got) != tt.warning && (got != nil || tt.warning != "") {
				t.Errorf("warns %v, want %s", got, tt.warning)
			}
		})
	}
}
