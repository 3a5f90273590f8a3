package nodeaddr

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
)

// errNone means that no interface has a usable address.
var errNone = errors.New("no network address found on any interface that is up: connect the network or give --node-ip")

// query says which addresses are wanted.
type query struct {
	// families holds the wanted families by example, such as the cluster's pod
	// ranges, in order of preference.
	families []netip.Prefix
	// inside are the ranges of pods and Services. brink itself gave an interface the
	// addresses in them.
	inside []netip.Prefix
	// file is where remember has written what was found. It need not exist.
	file string
}

// find returns an address of each wanted family. It leaves out families of which the
// machine has none, and returns errNone when that leaves nothing. An address of preferred
// that a link has is taken, whichever link has the default route.
func find(q query, preferred []Address) ([]Address, error) {
	links, last := listLinks("/sys"), remembered(q.file)
	var out []Address
	for _, example := range q.families {
		v4 := example.Addr().Is4()
		name, _ := defaultInterface(v4) // without a default route, ""
		a, ok := choose(ofFamily(links, v4), name, addressOf(last, v4), q.inside)
		if !ok {
			continue
		}
		old := addressOf(preferred, v4)
		if at, ok := holder(links, old.IP); ok {
			a = Address{IP: old.IP, Link: at.name}
		}
		out = append(out, a)
	}
	if len(out) == 0 {
		return nil, errNone
	}
	return out, nil
}

// addressOf returns the address of a family, the zero Address if there is none.
func addressOf(addrs []Address, v4 bool) Address {
	for _, a := range addrs {
		if a.IP.IsValid() && a.IP.Is4() == v4 {
			return a
		}
	}
	return Address{}
}

// choose picks the address of one family. defaultLink is the interface of the default
// route, last the address of the last start; each is zero when there is none. An address
// inside of the cluster's ranges is taken only from the default route's interface: a
// network that overlaps the ranges is the user's mistake, and should not be reported as a
// missing address.
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
