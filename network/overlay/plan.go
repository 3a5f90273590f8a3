package overlay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// dependency is a part of one entry that other entries rely on: a next hop's address, the
// MAC address behind it, the index of a link.
type dependency any

// step is one change of the kernel's state.
type step struct {
	text string
	do   func(kernel) error
	// deps are what stays in use if a step that sets something fails, or what a step
	// that deletes something takes away.
	deps []dependency
}

// plan is how the kernel's state becomes the wanted one: what others rely on comes
// first, and goes last.
type plan struct {
	sets      []step
	routeDels []step
	entryDels []step // of neighbours and FDB entries, which only routes rely on
}

// planFrom returns the steps from has to want. The link of entries is the device's
// index.
func (want entries) planFrom(has kernelState, device int) plan {
	var p plan
	setF, delF := diff(want.fdb, has.fdb)
	setN, delN := diff(want.neighs, has.neighs)
	setR, delR := diff(want.routes, has.routes)
	for _, e := range setF {
		p.sets = append(p.sets, step{"set " + e.String(), func(k kernel) error { return k.setFDB(device, e) }, []dependency{e.mac}})
	}
	for _, a := range setN {
		to := want.neighs[a]
		p.sets = append(p.sets, step{fmt.Sprintf("set neigh %s lladdr %s", a, to), func(k kernel) error { return k.setNeigh(device, a, to) }, has.neighDeps(a)})
	}
	for _, key := range setR {
		if _, ok := has.foreign[key.dst]; ok {
			continue // reported, not fought
		}
		to := want.routes[key]
		old, replace := has.routes[key]
		p.sets = append(p.sets, step{fmt.Sprintf("set %s %s", key, to), func(k kernel) error { return k.setRoute(key, to, replace) }, has.routeDeps(old)})
	}
	for _, key := range delR {
		old := has.routes[key]
		p.routeDels = append(p.routeDels, step{"delete " + key.String(), func(k kernel) error { return k.delRoute(key, old) }, has.routeDeps(old)})
	}
	for _, a := range delN {
		p.entryDels = append(p.entryDels, step{fmt.Sprintf("delete neigh %s", a), func(k kernel) error { return k.delNeigh(device, a) }, []dependency{a}})
	}
	for _, e := range delF {
		p.entryDels = append(p.entryDels, step{"delete " + e.String(), func(k kernel) error { return k.delFDB(device, e) }, []dependency{e.mac}})
	}
	return p
}

// neighDeps returns a neighbour's address and what it relies on.
func (e entries) neighDeps(a netip.Addr) []dependency {
	deps := []dependency{a}
	if m, ok := e.neighs[a]; ok {
		deps = append(deps, m)
	}
	return deps
}

// routeDeps returns what a route by h relies on, nothing for the zero next hop.
func (e entries) routeDeps(h nextHop) []dependency {
	if h == (nextHop{}) {
		return nil
	}
	return append(e.neighDeps(h.via), h.link)
}

// diff returns the keys of want that has lacks or has with another value, and
// those of has that want lacks, both in order of their text.
func diff[K interface {
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
