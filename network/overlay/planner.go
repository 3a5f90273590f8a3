package overlay

import (
	"fmt"
	"net/netip"
	"slices"

	"brink/network/iprange"
)

// planner collects what the kernel is to have, peer by peer.
type planner struct {
	entries
	device     *device      // nil while no peer needs it
	tunnelEnds []netip.Addr // one of each peer that is reached by the tunnel
	warnings   []string
	owner      map[netip.Prefix]string // the peer that has a prefix
	retained   []netip.Prefix          // the routes to these stay as they are

	cfg      Config
	kernel   kernel
	desired  DesiredState
	underlay underlay
}

func newPlanner(cfg Config, k kernel, desired DesiredState, u underlay) *planner {
	return &planner{entries: newEntries(), owner: map[netip.Prefix]string{}, cfg: cfg, kernel: k, desired: desired, underlay: u}
}

func (pl *planner) warn(format string, args ...any) {
	pl.warnings = append(pl.warnings, "node "+fmt.Sprintf(format, args...))
}

// add adds the entries of a peer, or a warning that says why there are none.
func (pl *planner) add(p Peer) {
	cidrs := pl.acceptedCIDRs(p)
	switch between(pl.cfg.Backend, p.Backend) {
	case HostGW:
		pl.addDirect(p, cidrs)
	case VXLAN:
		pl.addTunnel(p, cidrs)
	}
}

// acceptedCIDRs are the prefixes of p that may be routed to it. They have to be of
// the pods' range, and neither of this node nor of another peer.
func (pl *planner) acceptedCIDRs(p Peer) []netip.Prefix {
	var out []netip.Prefix
	for _, c := range p.CIDRs {
		switch other, taken := pl.owner[c]; {
		case !c.IsValid() || c != c.Masked() || !iprange.Within(c, pl.cfg.ClusterCIDRs):
			pl.warn("%s: its pods' range %s is not within the cluster's %v: not routed", p.Name, c, pl.cfg.ClusterCIDRs)
		case slices.ContainsFunc(pl.cfg.NodeCIDRs, c.Overlaps):
			pl.warn("%s: its pods' range %s is this node's: not routed", p.Name, c)
		case taken:
			pl.warn("%s: its pods' range %s is node %s's too: not routed", p.Name, c, other)
		default:
			pl.owner[c] = p.Name
			out = append(out, c)
		}
	}
	return out
}

// addDirect adds routes by the peer's own addresses.
func (pl *planner) addDirect(p Peer, cidrs []netip.Prefix) {
	for _, c := range cidrs {
		if _, isMissing := iprange.SameFamily(pl.underlay.missing, c.Addr()); isMissing {
			pl.retained = append(pl.retained, c)
			continue
		}
		addr, ok := iprange.SameFamily(p.Underlay, c.Addr())
		if !ok {
			pl.warn("%s: it has no address of the family of its pods' range %s, which %s needs: use the backend %s", p.Name, c, HostGW, VXLAN)
			continue
		}
		at, err := pl.kernel.pathTo(addr)
		if reason := whyNotDirect(at, err); reason != "" {
			pl.warn("%s: its address %s is not on a segment of this node (%s), so %s cannot reach its pods: use the backend %s", p.Name, addr, reason, HostGW, VXLAN)
			continue
		}
		pl.routes[routeTo(c)] = nextHop{via: addr, link: at.link.index}
	}
}

// whyNotDirect says why a packet to a pod cannot be handed to its node as it is. It is
// empty when it can.
func whyNotDirect(at path, err error) string {
	switch {
	case err != nil:
		return "there is no route to it: " + err.Error()
	case at.local:
		return "it is this node's own"
	case at.gateway.IsValid():
		return "the route leads through " + at.gateway.String()
	case !at.link.broadcast:
		// The other end gets the packet whoever it is, and knows no pods.
		return "the route leads through " + at.link.name + ", which has two ends only"
	}
	return ""
}

// addTunnel adds the entries for a peer that is reached by the VXLAN device. The link
// of its routes is 0 until setDevice.
func (pl *planner) addTunnel(p Peer, cidrs []netip.Prefix) {
	if len(cidrs) == 0 {
		return
	}
	own := pl.desired.Underlay[0]
	addr, ok := iprange.SameFamily(p.Underlay, own)
	switch {
	case !ok:
		pl.warn("%s: it has no address of the family of this node's address %s, by which the tunnel goes: give it one", p.Name, own)
		return
	case slices.Contains(pl.desired.Underlay, addr):
		pl.warn("%s: its address %s is this node's own", p.Name, addr)
		return
	case p.Underlay[0].Is4() != own.Is4():
		pl.warn("%s: its first address %s and this node's %s are of different families, and the tunnel goes by the first: give both nodes their addresses in one order", p.Name, p.Underlay[0], own)
	}
	if pl.device == nil {
		pl.device = pl.wantedDevice(own)
	}
	pl.tunnelEnds = append(pl.tunnelEnds, vtepAddr(cidrs[0]))
	m := vtepMAC(p.CIDRs)
	pl.fdb[fdbEntry{m, addr}] = struct{}{}
	for _, c := range cidrs {
		via := vtepHop(c, m)
		pl.neighs[via] = m
		pl.routes[routeTo(c)] = nextHop{via: via, onlink: via.Is4()}
	}
}

// retainLost takes over what depends on an address that this node has lost. The
// address is likely to come back, and nothing better is known.
func (pl *planner) retainLost(has kernelState) {
	for _, c := range pl.retained {
		if h, ok := has.routes[routeTo(c)]; ok {
			pl.routes[routeTo(c)] = h
		}
	}
	if pl.device != nil && has.device != nil && slices.Contains(pl.underlay.missing, pl.device.local) {
		pl.device.parent, pl.device.mtu = has.device.parent, has.device.mtu
	}
}

// setDevice is the last step: it gives routes by the tunnel the index of the device.
// Without a device, index 0, peers that were reached in another way stay reached so.
func (pl *planner) setDevice(index int, has kernelState) {
	for key, h := range pl.routes {
		if h.link != 0 {
			continue
		}
		h.link = index
		if index == 0 {
			h = has.routes[key]
		}
		if pl.routes[key] = h; h == (nextHop{}) {
			delete(pl.routes, key)
		}
	}
	if index == 0 {
		clear(pl.neighs)
		clear(pl.fdb)
	}
}

func (pl *planner) wantedDevice(local netip.Addr) *device {
	carrier := pl.underlay.links[local]
	d := &device{
		name: pl.cfg.Device, vni: pl.cfg.VNI, port: pl.cfg.Port, local: local,
		mac: vtepMAC(pl.cfg.NodeCIDRs), mtu: pl.underlay.deviceMTU, up: true, txChecksum: true,
	}
	// What has its address on a loopback may send by any link; and the kernel refuses
	// a device whose packets do not fit through its carrier.
	if !carrier.virtual && d.mtu+overhead(local) <= carrier.mtu {
		d.parent = carrier.index
	}
	var addrs []netip.Prefix
	for _, c := range pl.cfg.NodeCIDRs {
		addrs = append(addrs, host(vtepAddr(c)))
	}
	d.addrs = joined(addrs)
	return d
}
