package network

import (
	"strings"
	"testing"

	"brink/internal/testaddr"
	"brink/network/testnet"
)

// TestConflicts: links that conflict are named, and no others.
func TestConflicts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, commands, want string
		backend              Backend
	}{
		{"nothing", ":", "", VXLAN},
		{"ours", "ip link add brink0 type bridge; ip addr add 10.42.3.1/24 dev brink0; ip link add brink-vxlan type vxlan id 1 dstport 8472; ip addr add 10.42.3.0/32 dev brink-vxlan", "", VXLAN},
		{"elsewhere", "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip addr add 10.44.0.1/15 dev docker0", "", VXLAN},
		{"of another distribution", "ip link add cni0 type bridge; ip addr add 10.42.0.1/24 dev cni0",
			"link cni0 (another Kubernetes distribution) has the address 10.42.0.1/24, which meets the pods' range 10.42.0.0/16, so packets may go there: if nothing uses it, ip link delete cni0", VXLAN},
		{"IPv6", "ip link add cni0 type bridge; ip addr add fd42:0:0:3::1/64 dev cni0 nodad", "link cni0 (another Kubernetes distribution) has the address fd42:0:0:3::1/64, which meets the pods' range fd42::/56", HostGW},
		{"wider", "ip link add tun7 type bridge; ip addr add 10.1.2.3/8 dev tun7", "link tun7 (a VPN) has the address 10.1.2.3/8, which meets the pods' range 10.42.0.0/16", VXLAN},
		{"point to point", "ip link add tun7 type bridge; ip addr add 10.42.0.5 peer 10.1.0.0/8 dev tun7; ip addr add 172.17.0.5 peer 10.42.0.9/32 dev tun7", "link tun7 (a VPN) has the address 10.42.0.5/8, which meets the pods' range 10.42.0.0/16", VXLAN},
		{"of Services", "ip link add kube-ipvs0 type bridge; ip addr add 10.43.0.1/32 dev kube-ipvs0", "link kube-ipvs0 (another Kubernetes distribution) has the address 10.43.0.1/32, which meets the Services' range 10.43.0.0/16", VXLAN},
		{"same identifier", "ip link add flannel.1 type vxlan id 1 dstport 8472 local 127.0.0.1", "link flannel.1 (flannel) has the VXLAN identifier 1 on UDP port 8472, which leads to other nodes' pods here: if nothing uses it, ip link delete flannel.1", VXLAN},
		{"all identifiers", "ip link add cilium_vxlan type vxlan external dstport 8472", "link cilium_vxlan (Cilium) has all VXLAN identifiers on UDP port 8472", VXLAN},
		{"another identifier", "ip link add other type vxlan id 7 dstport 8472 local 127.0.0.1", "", VXLAN},
		{"another port", "ip link add other type vxlan id 1 dstport 4789 local 127.0.0.1", "", VXLAN},
		{"somebody leads to other nodes", "ip link add flannel.1 type vxlan id 1 dstport 8472 local 127.0.0.1; ip addr add 10.42.3.0/32 dev flannel.1; ip addr add 10.42.7.1/24 dev flannel.1", "", None},
		{"somebody has this node's pods", "ip link add cni0 type bridge; ip addr add 10.42.3.1/24 dev cni0", "link cni0 (another Kubernetes distribution) has the address 10.42.3.1/24, which meets the range of this node's pods", None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ns := testnet.Enter(t)
			testnet.Sh(t, ns, tt.commands)
			cfg := dualStack(t)
			cfg.Backend, cfg.ServiceCIDRs = tt.backend, testaddr.Prefixes("10.43.0.0/16", "fd43::/112")
			lines, err := Conflicts(cfg)
			testnet.Must(t, err)
			if got := strings.Join(lines, "\n"); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") || len(lines) > 1 {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestConflictsAreTold as long as they are there.
func TestConflictsAreTold(t *testing.T) {
	t.Parallel()
	s := testnet.AllStacks["IPv4"]
	nodes := cluster(t, s, VXLAN, VXLAN)
	testnet.Meet(t, nodes...)
	warned := func(text string) func() bool {
		return func() bool {
			err := nodes[0].network.Warnings()
			return err == nil && text == "" || err != nil && text != "" && strings.Contains(err.Error(), text)
		}
	}
	nodes[0].Sh(t, "ip link add cni0 type bridge; ip addr add 10.42.1.1/24 dev cni0; ip link set cni0 up")
	testnet.Eventually(t, "the bridge is named", warned("link cni0 (another Kubernetes distribution)"))
	nodes[0].Sh(t, "ip link del cni0")
	testnet.Eventually(t, "the bridge is gone", warned(""))
	nodes[0].Sh(t, "ip link del brink-vxlan; ip link add flannel.1 type vxlan id 1 dstport 8472 local 127.0.0.1; ip link set flannel.1 up")
	testnet.Eventually(t, "the tunnel is named", warned("link flannel.1 (flannel) has the VXLAN identifier 1"))
	nodes[0].Sh(t, "ip link del flannel.1")
	testnet.Eventually(t, "the tunnel is gone", warned(""))
	testnet.Meet(t, nodes...)
}
