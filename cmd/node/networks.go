package node

import (
	"net/netip"

	"brink/internal/host"
	"brink/network"
)

// OtherNetworks returns a warning for each foreign link that conflicts with the pod
// network. A machine that has not joined does not know its cluster's ranges: the usual
// ones are checked.
func OtherNetworks(cfg Config) []host.Check {
	const name = "other networks"
	if cfg.Agent == nil {
		return nil
	}
	pods := network.Config{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix(network.DefaultClusterCIDR)},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix(network.DefaultServiceCIDR)},
		Backend:      network.VXLAN,
	}
	if cfg.Server != nil {
		access := cfg.Agent.Access
		pods.ClusterCIDRs, pods.ServiceCIDRs, pods.Backend = access.ClusterCIDRs, access.ServiceCIDRs, access.Backend
	}
	lines, err := network.Conflicts(pods)
	if err != nil {
		return []host.Check{{Name: name, Result: host.Warn, Message: err.Error(), Fix: "run this as root"}}
	}
	var checks []host.Check
	for _, line := range lines {
		checks = append(checks, host.Check{Name: name, Result: host.Warn, Message: line})
	}
	if len(checks) == 0 {
		checks = append(checks, host.Check{Name: name, Result: host.OK, Message: "no link of others is in the pods' range or in the place of the tunnel"})
	}
	return checks
}
