// Package nodeaddr finds the addresses by which other machines reach this one, where the
// user has not given them.
//
// The address of the default route's interface is the right one wherever there
// is a default route. There is none when a cable is out, a DHCP server is down or a
// network has no gateway. Then the address of the last start is the best guess: the
// cluster knows the node by it, and it comes back with the cable. Only a machine that
// never had one uses another interface, and never a bridge of containers: brink's own and
// Docker's are up when nothing else is.
//
// A process has one Watcher, which owns the node's addresses. A server asks it to end
// the process when the address in its certificate is gone; an agent follows it, and
// tells the network and the cluster.
package nodeaddr

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// ErrNone is returned when no interface has a usable address.
var ErrNone = errors.New("no network address found on any interface that is up: connect the network or give --node-ip")

// Query says which addresses are wanted.
type Query struct {
	// Families holds the wanted families by example, such as the cluster's pod
	// ranges, in order of preference.
	Families []netip.Prefix
	// Inside are the ranges of pods and Services. brink itself gave an interface the
	// addresses in them.
	Inside []netip.Prefix
	// File is where Remember has written what was found. It need not exist.
	File string
}

// IsRoutable reports whether an address can be another machine's: it is not loopback,
// multicast or unspecified, and not link-local, which needs a link as well.
func IsRoutable(ip netip.Addr) bool {
	return ip.IsValid() && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsLoopback() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast() && !isUnassignable(ip)
}

// thisNetwork is "this network" of RFC 1122. As a destination its meaning is up to the
// kernel.
var thisNetwork = netip.MustParsePrefix("0.0.0.0/8")

// isUnassignable reports whether no machine can have an IPv4 address: it is in
// thisNetwork, or the broadcast address.
func isUnassignable(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || thisNetwork.Contains(ip)
}

// IsNeighbour reports whether this machine reaches an address without a router, by the
// present prefixes of its interfaces.
func IsNeighbour(ip netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Contains(ip)
	})
}

// Check returns why a node cannot have an address, nil when it can. inside are the
// ranges of pods and Services.
func Check(ip netip.Addr, inside []netip.Prefix) error {
	if !IsRoutable(ip) {
		return errors.New("other nodes cannot send to it")
	}
	for _, prefix := range inside {
		if prefix.Contains(ip) {
			return fmt.Errorf("%s has the addresses of pods or services", prefix)
		}
	}
	return nil
}

// Address is one of the machine's addresses.
type Address struct {
	IP   netip.Addr `json:"ip"`
	Link string     `json:"link"`
	// Gone is true if no interface has the address now, and it is from the last start.
	Gone bool `json:"-"`
}

// Find returns an address of each wanted family. It leaves out families of which the machine
// has none, and returns ErrNone when that leaves nothing.
func Find(q Query) ([]Address, error) { return find(q, look("/sys")) }

func find(q Query, links []link) ([]Address, error) {
	last := remembered(q.File)
	var out []Address
	for _, example := range q.Families {
		v4 := example.Addr().Is4()
		name, _ := defaultInterface(v4) // without a default route, ""
		if a, ok := choose(ofFamily(links, v4), name, lastOf(last, v4), q.Inside); ok {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, ErrNone
	}
	return out, nil
}

// Stay does what Find does for a machine that has addresses already: each that a link
// still has is kept, whichever link has the default route now.
func Stay(q Query, before []Address) ([]Address, error) {
	links := look("/sys")
	found, err := find(q, links)
	for i, a := range found {
		old := lastOf(before, a.IP.Is4())
		if at, ok := holder(links, old.IP); ok {
			found[i] = Address{IP: old.IP, Link: at.name}
		}
	}
	return found, err
}

// holder returns the link that is up and has an address.
func holder(links []link, ip netip.Addr) (link, bool) {
	i := slices.IndexFunc(links, func(l link) bool { return l.up && slices.Contains(l.addrs, ip) })
	if i < 0 {
		return link{}, false
	}
	return links[i], true
}

// link is a network interface with its addresses that are valid beyond the link.
type link struct {
	name      string
	up        bool
	running   bool // has a carrier
	kind      kind
	addrs     []netip.Addr
	transient map[netip.Addr]bool // of IPv6, see transientAddrs
}

// look returns all interfaces but loopback. sys is where sysfs is mounted.
func look(sys string) []link {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	transient := transientAddrs()
	var out []link
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		out = append(out, link{
			name: i.Name, up: i.Flags&net.FlagUp != 0, running: i.Flags&net.FlagRunning != 0,
			kind: kindOf(sys, i.Name), addrs: globalAddrs(i, transient), transient: transient,
		})
	}
	return out
}

// globalAddrs returns an interface's addresses, the lasting ones first. The kernel lists the
// newest first, and in IPv6 that may be a temporary one, which is replaced tomorrow.
func globalAddrs(i net.Interface, transient map[netip.Addr]bool) []netip.Addr {
	addrs, err := i.Addrs()
	if err != nil {
		return nil
	}
	var out []netip.Addr
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			out = append(out, p.Addr())
		}
	}
	return lasting(out, transient)
}

// lasting moves the transient addresses to the end.
func lasting(addrs []netip.Addr, transient map[netip.Addr]bool) []netip.Addr {
	passes := func(a netip.Addr) int {
		if transient[a] {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(addrs, func(a, b netip.Addr) int { return passes(a) - passes(b) })
	return addrs
}

// ofFamily returns the links with only their addresses of one family.
func ofFamily(links []link, v4 bool) []link {
	out := slices.Clone(links)
	for i := range out {
		isOther := func(a netip.Addr) bool { return a.Is4() != v4 }
		out[i].addrs = slices.DeleteFunc(slices.Clone(out[i].addrs), isOther)
	}
	return out
}

// choose picks the address of one family. defaultLink is the interface of the default route,
// last the address of the last start; each is zero when there is none. An address inside of the cluster's ranges is taken only from the default
// route's interface: a network that overlaps the ranges is the user's mistake, and should
// not be reported as a missing address.
func choose(links []link, defaultLink string, last Address, inside []netip.Prefix) (Address, bool) {
	if l, ok := named(links, defaultLink); ok && l.up && len(l.addrs) > 0 {
		if slices.Contains(l.addrs, last.IP) && l.transient[last.IP] == l.transient[l.addrs[0]] {
			return Address{IP: last.IP, Link: l.name}, true // another one may be listed first
		}
		return Address{IP: l.addrs[0], Link: l.name}, true
	}
	links = outside(links, inside)
	if last.IP.IsValid() {
		if a, ok := stillThere(links, last); ok {
			return a, true
		}
	}
	slices.SortStableFunc(links, func(a, b link) int { return cmp.Compare(a.rank(), b.rank()) })
	for _, l := range links {
		if l.up && l.kind != virtual && len(l.addrs) > 0 {
			return Address{IP: l.addrs[0], Link: l.name}, true
		}
	}
	last.Gone = true
	return last, last.IP.IsValid()
}

// stillThere returns the last address if an interface has it, else the new address of its
// interface, which has come by DHCP, else the last one if its interface still exists, since
// then only the cable is missing.
func stillThere(links []link, last Address) (Address, bool) {
	if l, ok := holder(links, last.IP); ok {
		return Address{IP: last.IP, Link: l.name}, true
	}
	l, ok := named(links, last.Link)
	if ok && l.up && len(l.addrs) > 0 {
		return Address{IP: l.addrs[0], Link: l.name}, true
	}
	last.Gone = true
	return last, ok
}

// rank is lower for links that are more likely to lead to other machines.
func (l link) rank() int {
	rank := 0
	if l.kind != physical {
		rank += 2
	}
	if !l.running {
		rank++
	}
	return rank
}

func named(links []link, name string) (link, bool) {
	i := slices.IndexFunc(links, func(l link) bool { return l.name == name })
	if i < 0 {
		return link{}, false
	}
	return links[i], true
}

// outside returns the links without addresses in the ranges.
func outside(links []link, ranges []netip.Prefix) []link {
	out := slices.Clone(links)
	for i := range out {
		isInside := func(a netip.Addr) bool {
			return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
		}
		out[i].addrs = slices.DeleteFunc(slices.Clone(out[i].addrs), isInside)
	}
	return out
}

// String lists addresses for people: "192.0.2.7 of eth0".
func String(addrs []Address) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.IP.String()+" of "+a.Link)
	}
	return strings.Join(out, ", ")
}
