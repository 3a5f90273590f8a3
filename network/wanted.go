package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
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
	wish   wish
	ground ground
}

func newWantedWays(cfg Config, k kernel, w wish, g ground) *wantedWays {
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
		case !c.IsValid() || c != c.Masked() || !Within(c, w.cfg.ClusterCIDRs):
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
		if _, lost := sameFamily(w.ground.lost, c.Addr()); lost {
			w.kept = append(w.kept, c)
			continue
		}
		addr, ok := sameFamily(p.Underlay, c.Addr())
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
	own := w.wish.underlay[0]
	addr, ok := sameFamily(p.Underlay, own)
	switch {
	case !ok:
		w.warn("%s: it has no address of the family of this node's address %s, by which the tunnel goes: give it one", p.Name, own)
		return
	case slices.Contains(w.wish.underlay, addr):
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
		name: w.cfg.VXLANDevice, vni: w.cfg.VNI, port: w.cfg.VXLANPort, local: local,
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

// stand finds out what this node stands on.
func (k *peerKeeper) stand(underlay []netip.Addr) (ground, error) {
	if len(underlay) == 0 {
		return ground{}, errors.New("this node has no address for other nodes")
	}
	holders, err := k.kernel.holders(underlay)
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
			mtu = k.defaultMTU(addr)
		}
		if carrier.index == 0 { // of the tunnel, or else of what is left
			carrier, g.device = l, mtu-overhead(underlay[0])
		}
		if least == 0 || mtu < least {
			least = mtu
		}
	}
	g.fit(k.cfg, least, carrier)
	return g, nil
}

// defaultMTU is the MTU of the way out of this node.
func (k *peerKeeper) defaultMTU(like netip.Addr) int {
	anywhere := netip.MustParseAddr("192.0.2.1") // reserved for documentation, RFC 5737
	if like.Is6() {
		anywhere = netip.MustParseAddr("2001:db8::1") // RFC 3849
	}
	at, err := k.kernel.lookup(anywhere)
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
	if cfg.MTU != 0 {
		g.pods, g.device = cfg.MTU, min(g.device, cfg.MTU)
	}
	if cfg.has(families[1]) {
		g.pods, g.device = max(g.pods, leastIPv6), max(g.device, leastIPv6)
	}
	if g.pods > fits {
		g.advice = fmt.Sprintf("packets of pods may have %d bytes, but only %d fit through link %s to other nodes (MTU %d), so they are sent in pieces or lost: raise the link's MTU to %d",
			g.pods, fits, carrier.name, carrier.mtu, g.pods+carrier.mtu-fits)
	}
}
