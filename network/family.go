package network

import (
	"net/netip"
)

// family is what differs between IPv4 and IPv6 here.
type family struct {
	match     string // nftables' name of the header
	v6        bool
	multicast netip.Prefix
	forward   string // the setting that makes the kernel route, below /proc/sys
	bridgeNF  string // the setting that shows bridged packets to nftables
}

var families = []family{
	{
		match:     "ip",
		multicast: netip.MustParsePrefix("224.0.0.0/4"),
		forward:   "net/ipv4/ip_forward",
		bridgeNF:  "net/bridge/bridge-nf-call-iptables",
	},
	{
		match:     "ip6",
		v6:        true,
		multicast: netip.MustParsePrefix("ff00::/8"),
		forward:   "net/ipv6/conf/all/forwarding",
		bridgeNF:  "net/bridge/bridge-nf-call-ip6tables",
	},
}

// of returns the prefixes that are of this family.
func (f family) of(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is6() == f.v6 {
			out = append(out, p)
		}
	}
	return out
}
