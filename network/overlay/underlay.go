package overlay

import (
	"errors"
	"fmt"
	"net/netip"
)

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
