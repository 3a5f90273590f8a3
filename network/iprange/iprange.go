// Package iprange answers questions about address ranges and families that netip
// leaves open.
package iprange

import (
	"fmt"
	"net/netip"
	"slices"
)

// Within reports whether p lies in one of the wider prefixes.
func Within(p netip.Prefix, wider []netip.Prefix) bool {
	return slices.ContainsFunc(wider, func(w netip.Prefix) bool {
		return w.Contains(p.Addr()) && w.Bits() <= p.Bits()
	})
}

// SameFamily returns the first of addrs that is of the family of like.
func SameFamily(addrs []netip.Addr, like netip.Addr) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.Is4() == like.Is4() {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// Has6 reports whether one of the prefixes is of IPv6.
func Has6(prefixes []netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// IPv4First returns the prefixes with those of IPv4 before those of IPv6: users give
// them in either order.
func IPv4First(prefixes []netip.Prefix) []netip.Prefix {
	return slices.SortedStableFunc(slices.Values(prefixes), func(a, b netip.Prefix) int {
		return a.Addr().BitLen() - b.Addr().BitLen()
	})
}

// OnePerFamily returns an error unless all of prefixes are networks, without host
// bits, and at most one is of each family. What they are called comes first in it.
func OnePerFamily(what string, prefixes []netip.Prefix) error {
	seen := map[bool]netip.Prefix{}
	for _, p := range prefixes {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("%s %s is not a network prefix", what, p)
		}
		if other, ok := seen[p.Addr().Is4()]; ok {
			return fmt.Errorf("%s %s and %s are of one address family", what, other, p)
		}
		seen[p.Addr().Is4()] = p
	}
	return nil
}
