package node

import (
	"net/netip"

	"brink/internal/host"
	"brink/network"
)

// OtherNetworks names the links of others that are in the way of the pod network. An
// agent does not know its cluster's ranges before it has joined: it looks for the
// usual ones.
func OtherNetworks(s Config) []host.Check {
	const name = "other networks"
	cfg := network.Config{
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		Backend:      network.VXLAN,
	}
	if s.DisableAgent {
		return nil
	}
	if s.Join == nil {
		access := s.Agent.Access
		cfg.ClusterCIDRs, cfg.ServiceCIDRs, cfg.Backend = access.ClusterCIDRs, access.ServiceCIDRs, access.Backend
	}
	lines, err := network.Conflicts(cfg)
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
