package overlay

import (
	"errors"
	"fmt"
	"net/netip"

	"brink/network/iprange"
)

// stand finds out what this node stands on.
func (o *Overlay) stand(underlay []netip.Addr) (ground, error) {
	if len(underlay) == 0 {
		return ground{}, errors.New("this node has no address for other nodes")
	}
	holders, err := o.kernel.holders(underlay)
	if err != nil {
		return ground{}, err
	}
	if len(holders) == 0 {
		return ground{}, fmt.Errorf("no link of this node has its address %s: peers stay as they are", underlay[0])
	}
	g := ground{holders: holders}
	least, carrier := 0, link{}
	for _, addr := range underlay {
		l, ok := holders[addr]
		if !ok {
			g.lost = append(g.lost, addr)
			continue
		}
		mtu := l.mtu
		if l.hasNoWire {
			mtu = o.defaultMTU(addr)
		}
		if carrier.index == 0 { // of the tunnel, or else of what is left
			carrier, g.device = l, mtu-overhead(underlay[0])
		}
		if least == 0 || mtu < least {
			least = mtu
		}
	}
	g.fit(o.cfg, least, carrier)
	return g, nil
}

// defaultMTU is the MTU of the way out of this node.
func (o *Overlay) defaultMTU(like netip.Addr) int {
	anywhere := netip.MustParseAddr("192.0.2.1") // reserved for documentation, RFC 5737
	if like.Is6() {
		anywhere = netip.MustParseAddr("2001:db8::1") // RFC 3849
	}
	at, err := o.kernel.lookup(anywhere)
	if err != nil || at.link.hasNoWire {
		return ethernetMTU
	}
	return at.link.mtu
}

// ethernetMTU is what nearly all links have.
const ethernetMTU = 1500

// leastIPv6 is the least MTU that a link with IPv6 may have (RFC 8200).
const leastIPv6 = 1280

// fit settles the MTUs. Fewer bytes than links carry are fine, more are not.
func (g *ground) fit(cfg Config, least int, carrier link) {
	fits := least
	if cfg.Backend == VXLAN {
		fits = g.device
	}
	g.pods = fits
	if cfg.PodMTU != 0 {
		g.pods, g.device = cfg.PodMTU, min(g.device, cfg.PodMTU)
	}
	if iprange.Has6(cfg.ClusterCIDRs) {
		g.pods, g.device = max(g.pods, leastIPv6), max(g.device, leastIPv6)
	}
	if g.pods > fits {
		g.advice = fmt.Sprintf("packets of pods may have %d bytes, but only %d fit through link %s to other nodes (MTU %d), so they are sent in pieces or lost: raise the link's MTU to %d",
			g.pods, fits, carrier.name, carrier.mtu, g.pods+carrier.mtu-fits)
	}
}
