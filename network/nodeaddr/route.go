package nodeaddr

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brink/network/rtnl"
)

// defaultInterface returns the interface of the default route with the lowest metric in
// the main table. Policy routing has other tables, such as that of a VPN for all but its
// own packets, whose interface other machines do not reach. /proc/net/ipv6_route does not
// tell tables apart.
func defaultInterface(v4 bool) (string, error) {
	family := netlink.FAMILY_V4
	if !v4 {
		family = netlink.FAMILY_V6
	}
	wanted := &netlink.Route{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST} // to everywhere
	const by = netlink.RT_FILTER_TABLE | netlink.RT_FILTER_TYPE | netlink.RT_FILTER_DST
	routes, err := rtnl.Complete(func() ([]netlink.Route, error) { return netlink.RouteListFiltered(family, wanted, by) })
	if err != nil {
		return "", fmt.Errorf("asking the kernel for its routes: %w", err)
	}
	routes = slices.DeleteFunc(routes, func(r netlink.Route) bool { return linkOf(r) == 0 })
	if len(routes) == 0 {
		return "", errors.New("no default route")
	}
	best := slices.MinFunc(routes, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
	link, err := net.InterfaceByIndex(linkOf(best))
	if err != nil {
		return "", err
	}
	return link.Name, nil
}

// linkOf returns the index of a route's link, the first next hop's if there are several.
func linkOf(r netlink.Route) int {
	if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	return r.LinkIndex
}

// transientFlags are those of an IPv6 address that is not there to stay, or not usable.
const transientFlags = unix.IFA_F_TEMPORARY | unix.IFA_F_DADFAILED | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE

// transientAddrs returns the IPv6 addresses that are not there to stay, or not usable.
func transientAddrs() map[netip.Addr]bool {
	addrs, err := rtnl.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V6) })
	if err != nil {
		return nil // as on a kernel without IPv6
	}
	out := map[netip.Addr]bool{}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && a.Flags&transientFlags != 0 {
			out[ip] = true
		}
	}
	return out
}
