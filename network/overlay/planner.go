package overlay

import (
	"fmt"
	"net/netip"
	"slices"

	"brink/network/iprange"
)

// wantedWays grows to be what the kernel shall have, peer by peer.
type wantedWays struct {
	ways
	device   *device      // nil while no peer needs it
	ends     []netip.Addr // of peers' tunnels, one of each peer
	warnings []string
	owner    map[netip.Prefix]string // whose pods a prefix is of
	kept     []netip.Prefix          // whose routes stay as they are

	cfg    Config
	kernel kernel
	wish   DesiredState
	ground ground
}

func newWantedWays(cfg Config, k kernel, w DesiredState, g ground) *wantedWays {
	return &wantedWays{ways: newWays(), owner: map[netip.Prefix]string{}, cfg: cfg, kernel: k, wish: w, ground: g}
}

func (w *wantedWays) warn(format string, args ...any) {
	w.warnings = append(w.warnings, "node "+fmt.Sprintf(format, args...))
}

// add takes a peer's ways in, or the reason why there are none.
func (w *wantedWays) add(p Peer) {
	cidrs := w.acceptable(p)
	switch between(w.cfg.Backend, p.Backend) {
	case HostGW:
		w.addDirect(p, cidrs)
	case VXLAN:
		w.addTunnel(p, cidrs)
	}
}

// acceptable are the prefixes of p that may be routed to it: a peer cannot have
// other addresses than pods', and not those of this node or of another peer.
func (w *wantedWays) acceptable(p Peer) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range p.CIDRs {
		switch other, taken := w.owner[c]; {
		case !c.IsValid() || c != c.Masked() || !iprange.Within(c, w.cfg.ClusterCIDRs):
			w.warn("%s: its pods' range %s is not within the cluster's %v: not routed", p.Name, c, w.cfg.ClusterCIDRs)
		case slices.ContainsFunc(w.cfg.NodeCIDRs, c.Overlaps):
			w.warn("%s: its pods' range %s is this node's: not routed", p.Name, c)
		case taken:
			w.warn("%s: its pods' range %s is node %s's too: not routed", p.Name, c, other)
		default:
			w.owner[c] = p.Name
			out = append(out, c)
		}
	}
	return out
}

// addDirect adds routes by the peer's own addresses.
func (w *wantedWays) addDirect(p Peer, cidrs []netip.Prefix) {
	for _, c := range cidrs {
		if _, lost := iprange.SameFamily(w.ground.lost, c.Addr()); lost {
			w.kept = append(w.kept, c)
			continue
		}
		addr, ok := iprange.SameFamily(p.Underlay, c.Addr())
		if !ok {
			w.warn("%s: it has no address of the family of its pods' range %s, which %s needs: use the backend %s", p.Name, c, HostGW, VXLAN)
			continue
		}
		at, err := w.kernel.lookup(addr)
		if reason := farReason(at, err); reason != "" {
			w.warn("%s: its address %s is not on a segment of this node (%s), so %s cannot reach its pods: use the backend %s", p.Name, addr, reason, HostGW, VXLAN)
			continue
		}
		w.routes[wayTo(c)] = hop{via: addr, link: at.link.index}
	}
}

// farReason is why a packet to a neighbour's pod cannot be handed to it, empty
// when it can.
func farReason(at answer, err error) string {
	switch {
	case err != nil:
		return "there is no route to it: " + err.Error()
	case at.local:
		return "it is this node's own"
	case at.gateway.IsValid():
		return "the way leads through " + at.gateway.String()
	case !at.link.carries:
		// Whoever is at the other end gets the packet, and knows no pods.
		return "the way leads through " + at.link.name + ", which has two ends only"
	}
	return ""
}

// addTunnel adds the ways by the VXLAN device. Their link is not known yet: it is
// 0 until place.
func (w *wantedWays) addTunnel(p Peer, cidrs []netip.Prefix) {
	if len(cidrs) == 0 {
		return
	}
	own := w.wish.Underlay[0]
	addr, ok := iprange.SameFamily(p.Underlay, own)
	switch {
	case !ok:
		w.warn("%s: it has no address of the family of this node's address %s, by which the tunnel goes: give it one", p.Name, own)
		return
	case slices.Contains(w.wish.Underlay, addr):
		w.warn("%s: its address %s is this node's own", p.Name, addr)
		return
	case p.Underlay[0].Is4() != own.Is4():
		w.warn("%s: its first address %s and this node's %s are of different families, and the tunnel goes by the first: give both nodes their addresses in one order", p.Name, p.Underlay[0], own)
	}
	if w.device == nil {
		w.device = w.wantedDevice(own)
	}
	w.ends = append(w.ends, vtepAddr(cidrs[0]))
	m := vtepMAC(p.CIDRs)
	w.fdb[fdbEntry{m, addr}] = struct{}{}
	for _, c := range cidrs {
		via := vtepHop(c, m)
		w.neighs[via] = m
		w.routes[wayTo(c)] = hop{via: via, onlink: via.Is4()}
	}
}

// keepLost takes over what depends on an address that this node has lost: it is
// likely to come back, and nothing better is known.
func (w *wantedWays) keepLost(has found) {
	for _, c := range w.kept {
		if h, ok := has.routes[wayTo(c)]; ok {
			w.routes[wayTo(c)] = h
		}
	}
	if w.device != nil && has.device != nil && slices.Contains(w.ground.lost, w.device.local) {
		w.device.parent, w.device.mtu = has.device.parent, has.device.mtu
	}
}

// place is the last step: the index of the device, 0 when there is none. Without
// one, peers that were reached in another way stay reached by it.
func (w *wantedWays) place(index int, has found) {
	for key, h := range w.routes {
		if h.link != 0 {
			continue
		}
		h.link = index
		if index == 0 {
			h = has.routes[key]
		}
		if w.routes[key] = h; h == (hop{}) {
			delete(w.routes, key)
		}
	}
	if index == 0 {
		clear(w.neighs)
		clear(w.fdb)
	}
}

func (w *wantedWays) wantedDevice(local netip.Addr) *device {
	carrier := w.ground.holders[local]
	d := &device{
		name: w.cfg.Device, vni: w.cfg.VNI, port: w.cfg.Port, local: local,
		mac: vtepMAC(w.cfg.NodeCIDRs), mtu: w.ground.device, up: true, checksum: true,
	}
	// What a loopback holds may come and go by any link; and the kernel refuses a
	// device whose packets do not fit through its carrier.
	if !carrier.hasNoWire && d.mtu+overhead(local) <= carrier.mtu {
		d.parent = carrier.index
	}
	var addrs []netip.Prefix
	for _, c := range w.cfg.NodeCIDRs {
		addrs = append(addrs, host(vtepAddr(c)))
	}
	d.addrs = joined(addrs)
	return d
}
