package overlay

import (
	"errors"
	"fmt"
	"net/netip"

	"brink/network/iprange"
)

// ethernetMTU is what nearly all links have.
const ethernetMTU = 1500

// leastIPv6 is the least MTU that a link with IPv6 may have (RFC 8200).
const leastIPv6 = 1280

// underlay is what this node reaches other nodes by.
type underlay struct {
	links      map[netip.Addr]link // that have this node's addresses
	missing    []netip.Addr        // of this node's addresses those that no link has
	deviceMTU  int
	podMTU     int
	mtuWarning string // says what is wrong with that, if anything
}

// measureUnderlay finds the links of this node's addresses and what fits through them.
func (o *Overlay) measureUnderlay(addrs []netip.Addr) (underlay, error) {
	if len(addrs) == 0 {
		return underlay{}, errors.New("this node has no address for other nodes")
	}
	links, err := o.kernel.linksOf(addrs)
	if err != nil {
		return underlay{}, err
	}
	if len(links) == 0 {
		return underlay{}, fmt.Errorf("no link of this node has its address %s: peers stay as they are", addrs[0])
	}
	u := underlay{links: links}
	least, carrier := 0, link{}
	for _, addr := range addrs {
		l, ok := links[addr]
		if !ok {
			u.missing = append(u.missing, addr)
			continue
		}
		mtu := l.mtu
		if l.virtual {
			mtu = o.defaultMTU(addr)
		}
		if carrier.index == 0 { // of the tunnel, or else of what is left
			carrier, u.deviceMTU = l, mtu-overhead(addrs[0])
		}
		if least == 0 || mtu < least {
			least = mtu
		}
	}
	u.clampMTUs(o.cfg, least, carrier)
	return u, nil
}

// defaultMTU is that of the link by which the node reaches the outside.
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

// clampMTUs settles both MTUs by what the links carry, the least of them, and by what
// is configured. Fewer bytes than links carry are fine, more are not.
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
