package overlay

import (
	"fmt"
	"net/netip"

	"brink/network/iprange"
)

// ethernetMTU is what nearly all links have.
const ethernetMTU = 1500

// leastIPv6 is the least MTU that a link with IPv6 may have (RFC 8200).
const leastIPv6 = 1280

// overhead is what VXLAN adds to a packet, in bytes: an inner Ethernet header
// (14), VXLAN (8), UDP (8) and the outer IP header (RFC 7348).
func overhead(underlay netip.Addr) int {
	if underlay.Is4() {
		return 50
	}
	return 70
}

// defaultMTU returns the MTU of the link by which the node reaches the outside, in the
// address family of like.
func (o *Overlay) defaultMTU(like netip.Addr) int {
	anywhere := netip.MustParseAddr("192.0.2.1") // reserved for documentation, RFC 5737
	if like.Is6() {
		anywhere = netip.MustParseAddr("2001:db8::1") // RFC 3849
	}
	at, err := o.kernel.pathTo(anywhere)
	if err != nil || at.link.virtual {
		return ethernetMTU
	}
	return at.link.mtu
}

// clampMTUs sets the MTUs of pods and of the device. Without a configured MTU they are
// what fits through the links to other nodes, of which least is the smallest MTU. A
// configured one counts even if it is larger, with a warning.
func (u *underlay) clampMTUs(cfg Config, least int, carrier link) {
	fits := least
	if cfg.Backend == VXLAN {
		fits = u.deviceMTU
	}
	u.podMTU = fits
	if cfg.PodMTU != 0 {
		u.podMTU, u.deviceMTU = cfg.PodMTU, min(u.deviceMTU, cfg.PodMTU)
	}
	if iprange.Has6(cfg.ClusterCIDRs) {
		u.podMTU, u.deviceMTU = max(u.podMTU, leastIPv6), max(u.deviceMTU, leastIPv6)
	}
	if u.podMTU > fits {
		u.mtuWarning = fmt.Sprintf("packets of pods may have %d bytes, but only %d fit through link %s to other nodes (MTU %d), so they are sent in pieces or lost: raise the link's MTU to %d",
			u.podMTU, fits, carrier.name, carrier.mtu, u.podMTU+carrier.mtu-fits)
	}
}
