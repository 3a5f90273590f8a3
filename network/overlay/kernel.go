package overlay

import (
	"fmt"
	"maps"
	"net/netip"
)

// routeKey is what the kernel tells routes of one table apart by.
type routeKey struct {
	dst    netip.Prefix
	metric int
}

// routeTo is the key of our route to a prefix. The metrics are the kernel's
// defaults; IPv6 has no metric 0.
func routeTo(dst netip.Prefix) routeKey {
	if dst.Addr().Is4() {
		return routeKey{dst, 0}
	}
	return routeKey{dst, 1024}
}

func (k routeKey) String() string {
	if k == routeTo(k.dst) {
		return "route " + k.dst.String()
	}
	return fmt.Sprintf("route %s metric %d", k.dst, k.metric)
}

// nextHop is where a route leads.
type nextHop struct {
	via         netip.Addr
	link        int
	onlink      bool // via is reached over link whatever other routes say
	nonstandard bool // the route has properties that ours never have
}

func (h nextHop) String() string {
	text := fmt.Sprintf("via %s dev %d", h.via, h.link)
	if h.onlink {
		text += " onlink"
	}
	if h.nonstandard {
		text += " and more"
	}
	return text
}

// fdbEntry is an entry of the device's forwarding database: it says behind which underlay
// address a MAC address is.
type fdbEntry struct {
	mac mac
	dst netip.Addr
}

func (e fdbEntry) String() string { return fmt.Sprintf("fdb %s dst %s", e.mac, e.dst) }

// entries are the routes, neighbours and FDB entries by which peers are reached.
type entries struct {
	routes map[routeKey]nextHop
	neighs map[netip.Addr]mac // permanent neighbours on the device
	fdb    map[fdbEntry]struct{}
}

func newEntries() entries {
	return entries{map[routeKey]nextHop{}, map[netip.Addr]mac{}, map[fdbEntry]struct{}{}}
}

// usesLink reports whether a route leads over a link.
func (e entries) usesLink(link int) bool {
	for _, h := range e.routes {
		if h.link == link {
			return true
		}
	}
	return false
}

// kernelState is what there is of brink in the kernel.
type kernelState struct {
	device *device
	entries
	// foreign are the routes of others that are in front of, or in the place of,
	// ones that we want, with their protocol.
	foreign map[netip.Prefix]int
}

// withoutDevice is what is left when the device was removed: the kernel drops
// everything on it.
func (s kernelState) withoutDevice(index int) kernelState {
	s.device, s.neighs, s.fdb = nil, nil, nil
	s.routes = maps.Clone(s.routes)
	maps.DeleteFunc(s.routes, func(_ routeKey, h nextHop) bool { return h.link == index })
	return s
}

// link is a link of this node.
type link struct {
	index, mtu int
	name       string
	broadcast  bool // reaches neighbours by their MAC address
	virtual    bool // loopback or dummy: has addresses, carries nothing
}

// path is how the kernel would send a packet.
type path struct {
	link    link
	gateway netip.Addr // invalid when the destination is on the link
	local   bool       // the destination is this node
}

// kernel is what is asked of the host's network stack. What is set may be there
// already with another value; what is deleted may be gone already.
type kernel interface {
	// linksOf finds the link that has each of the addresses.
	linksOf(addrs []netip.Addr) (map[netip.Addr]link, error)
	// pathTo asks how a packet to an address would be sent.
	pathTo(netip.Addr) (path, error)
	// inspect lists what is brink's, and foreign routes to the prefixes of wanted.
	inspect(deviceName string, wanted map[routeKey]nextHop) (kernelState, error)

	// makeDevice makes a device without addresses that is down, and returns its
	// index.
	makeDevice(device) (int, error)
	// adjustDevice makes has, which exists, like want.
	adjustDevice(has, want device) error
	removeDevice(device) error

	// setRoute replaces our route of the key, or adds one when there is none; it
	// never takes the place of one that is not ours.
	setRoute(key routeKey, to nextHop, replace bool) error
	delRoute(routeKey, nextHop) error
	setNeigh(link int, addr netip.Addr, to mac) error
	delNeigh(link int, addr netip.Addr) error
	setFDB(link int, entry fdbEntry) error
	delFDB(link int, entry fdbEntry) error
}
