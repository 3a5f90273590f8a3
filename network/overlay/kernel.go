package overlay

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// routeKey is by what the kernel tells routes of one table apart.
type routeKey struct {
	dst    netip.Prefix
	metric int
}

// wayTo is the key of our route to a prefix. The metrics are the kernel's
// defaults; IPv6 has no metric 0.
func wayTo(dst netip.Prefix) routeKey {
	if dst.Addr().Is4() {
		return routeKey{dst, 0}
	}
	return routeKey{dst, 1024}
}

func (k routeKey) String() string {
	if k == wayTo(k.dst) {
		return "route " + k.dst.String()
	}
	return fmt.Sprintf("route %s metric %d", k.dst, k.metric)
}

// hop is the next stop of a route.
type hop struct {
	via    netip.Addr
	link   int
	onlink bool // via is reached over link whatever other routes say
	odd    bool // the route has properties that ours never have
}

func (h hop) String() string {
	text := fmt.Sprintf("via %s dev %d", h.via, h.link)
	if h.onlink {
		text += " onlink"
	}
	if h.odd {
		text += " and more"
	}
	return text
}

// fdbEntry tells the device behind which underlay address a MAC address is.
type fdbEntry struct {
	mac mac
	dst netip.Addr
}

func (e fdbEntry) String() string { return fmt.Sprintf("fdb %s dst %s", e.mac, e.dst) }

// ways are the entries by which peers are reached.
type ways struct {
	routes map[routeKey]hop
	neighs map[netip.Addr]mac // permanent neighbours on the device
	fdb    map[fdbEntry]struct{}
}

func newWays() ways {
	return ways{map[routeKey]hop{}, map[netip.Addr]mac{}, map[fdbEntry]struct{}{}}
}

// found is what there is in the kernel of ours.
type found struct {
	device *device
	ways
	// foreign are the routes of others that are in front of, or in the place of,
	// ones that we want, with their protocol.
	foreign map[netip.Prefix]int
}

// link is a link of this node.
type link struct {
	index, mtu int
	name       string
	carries    bool // reaches neighbours by their MAC address
	hasNoWire  bool // loopback or dummy: holds addresses, carries nothing
}

// answer is how the kernel would send a packet.
type answer struct {
	link    link
	gateway netip.Addr // invalid when the destination is on the link
	local   bool       // the destination is this node
}

// kernel is what is asked of the host's network stack. What is set may be there
// already with another value; what is deleted may be gone already.
type kernel interface {
	// holders finds the link that has each of the addresses.
	holders(addrs []netip.Addr) (map[netip.Addr]link, error)
	// lookup asks for the way to an address.
	lookup(netip.Addr) (answer, error)
	// look lists what is ours, and foreign routes to the prefixes of wanted.
	look(deviceName string, wanted map[routeKey]hop) (found, error)

	// makeDevice makes a device without addresses that is down, and returns its
	// index.
	makeDevice(device) (int, error)
	// adjustDevice makes has, which exists, like want.
	adjustDevice(has, want device) error
	removeDevice(device) error

	// setRoute replaces our route of the key, or adds one when there is none; it
	// never takes the place of one that is not ours.
	setRoute(key routeKey, to hop, replace bool) error
	delRoute(routeKey, hop) error
	setNeigh(link int, addr netip.Addr, to mac) error
	delNeigh(link int, addr netip.Addr) error
	setFDB(link int, entry fdbEntry) error
	delFDB(link int, entry fdbEntry) error
}

// uses tells whether a route leads over a link.
func (w ways) uses(link int) bool {
	for _, h := range w.routes {
		if h.link == link {
			return true
		}
	}
	return false
}

// missing returns the keys of want that has lacks or has with another value, and
// those of has that want lacks, both in order of their text.
func missing[K interface {
	comparable
	fmt.Stringer
}, V comparable](want, has map[K]V) (set, del []K) {
	for k, v := range want {
		if old, ok := has[k]; !ok || old != v {
			set = append(set, k)
		}
	}
	for k := range has {
		if _, ok := want[k]; !ok {
			del = append(del, k)
		}
	}
	byText := func(a, b K) int { return cmp.Compare(a.String(), b.String()) }
	slices.SortFunc(set, byText)
	slices.SortFunc(del, byText)
	return set, del
}

// part is something that ways are made of and others of them rely on: a next hop's
// address, a MAC address behind it, the index of a link.
type part any

// step is one change of the kernel's state.
type step struct {
	text string
	do   func(kernel) error
	// parts are, of a step that sets, what stays in use when it fails; of one that
	// takes away, what goes with it.
	parts []part
}

// plan is how has becomes want: what others rely on first, and in reverse when
// it goes. The link is the device's index.
type plan struct {
	set   []step
	unway []step // routes that go
	unset []step // entries that only routes rely on
}

func (want ways) planFrom(has found, device int) plan {
	var p plan
	setF, delF := missing(want.fdb, has.fdb)
	setN, delN := missing(want.neighs, has.neighs)
	setR, delR := missing(want.routes, has.routes)
	for _, e := range setF {
		p.set = append(p.set, step{"set " + e.String(), func(k kernel) error { return k.setFDB(device, e) }, []part{e.mac}})
	}
	for _, a := range setN {
		to := want.neighs[a]
		p.set = append(p.set, step{fmt.Sprintf("set neigh %s lladdr %s", a, to), func(k kernel) error { return k.setNeigh(device, a, to) }, has.behind(a)})
	}
	for _, key := range setR {
		if _, ok := has.foreign[key.dst]; ok {
			continue // reported, not fought
		}
		to := want.routes[key]
		old, replace := has.routes[key]
		p.set = append(p.set, step{fmt.Sprintf("set %s %s", key, to), func(k kernel) error { return k.setRoute(key, to, replace) }, has.under(old)})
	}
	for _, key := range delR {
		old := has.routes[key]
		p.unway = append(p.unway, step{"delete " + key.String(), func(k kernel) error { return k.delRoute(key, old) }, has.under(old)})
	}
	for _, a := range delN {
		p.unset = append(p.unset, step{fmt.Sprintf("delete neigh %s", a), func(k kernel) error { return k.delNeigh(device, a) }, []part{a}})
	}
	for _, e := range delF {
		p.unset = append(p.unset, step{"delete " + e.String(), func(k kernel) error { return k.delFDB(device, e) }, []part{e.mac}})
	}
	return p
}

// behind is a neighbour with what it relies on.
func (w ways) behind(a netip.Addr) []part {
	parts := []part{a}
	if m, ok := w.neighs[a]; ok {
		parts = append(parts, m)
	}
	return parts
}

// under is what a route by h relies on, nothing for the zero hop.
func (w ways) under(h hop) []part {
	if h == (hop{}) {
		return nil
	}
	return append(w.behind(h.via), h.link)
}

// afterDevice is what is left of has when its device was removed: the kernel
// drops everything on it.
func (has found) afterDevice(index int) found {
	has.device, has.neighs, has.fdb = nil, nil, nil
	has.routes = maps.Clone(has.routes)
	maps.DeleteFunc(has.routes, func(_ routeKey, h hop) bool { return h.link == index })
	return has
}
