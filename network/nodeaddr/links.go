package nodeaddr

import (
	"net"
	"net/netip"
	"slices"
)

// link is a network interface with its addresses that are valid beyond the link.
type link struct {
	name      string
	up        bool
	running   bool // has a carrier
	kind      kind
	addrs     []netip.Addr
	transient map[netip.Addr]bool // of IPv6, see transientAddrs
}

// listLinks returns all interfaces but loopback. sys is where sysfs is mounted.
func listLinks(sys string) []link {
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

// holder returns the link that is up and has an address.
func holder(links []link, ip netip.Addr) (link, bool) {
	i := slices.IndexFunc(links, func(l link) bool { return l.up && slices.Contains(l.addrs, ip) })
	if i < 0 {
		return link{}, false
	}
	return links[i], true
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
