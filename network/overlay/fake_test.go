package overlay

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// fakeKernel keeps what would be in the kernel and prints it as text.
type fakeKernel struct {
	links map[netip.Addr]link
	paths map[netip.Addr]path // others are on the segment of the first link
	has   kernelState
	next  int // index of the next device

	log  []string         // changes in order
	fail map[string]error // by a part of the change's text
}

func newFakeKernel() *fakeKernel {
	eth0 := link{index: 2, mtu: 1500, name: "eth0", broadcast: true}
	return &fakeKernel{
		links: map[netip.Addr]link{netip.MustParseAddr("192.0.2.1"): eth0, netip.MustParseAddr("2001:db8::1"): eth0},
		paths: map[netip.Addr]path{},
		has:   kernelState{entries: newEntries(), foreign: map[netip.Prefix]int{}},
		next:  7,
	}
}

// change logs a change, and fails it if that is asked for.
func (f *fakeKernel) change(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	for part, err := range f.fail {
		if strings.Contains(text, part) {
			f.log = append(f.log, text+" FAILS")
			return err
		}
	}
	f.log = append(f.log, text)
	return nil
}

// changes returns and forgets the log.
func (f *fakeKernel) changes() string {
	text := strings.Join(f.log, "\n")
	f.log = nil
	return text
}

func (f *fakeKernel) linksOf(addrs []netip.Addr) (map[netip.Addr]link, error) {
	out := maps.Clone(f.links)
	maps.DeleteFunc(out, func(a netip.Addr, _ link) bool { return !slices.Contains(addrs, a) })
	return out, nil
}

func (f *fakeKernel) pathTo(a netip.Addr) (path, error) {
	if at, ok := f.paths[a]; ok {
		if at == (path{}) {
			return at, errors.New("network is unreachable")
		}
		return at, nil
	}
	return path{link: f.links[netip.MustParseAddr("192.0.2.1")]}, nil
}

func (f *fakeKernel) inspect(string, map[routeKey]nextHop) (kernelState, error) {
	out := kernelState{entries: entries{maps.Clone(f.has.routes), maps.Clone(f.has.neighs), maps.Clone(f.has.fdb)}, foreign: maps.Clone(f.has.foreign)}
	if f.has.device != nil {
		d := *f.has.device
		out.device = &d
	}
	return out, f.fail["inspect"]
}

func (f *fakeKernel) makeDevice(d device) (int, error) {
	if err := f.change("make link %s", d.name); err != nil {
		return 0, err
	}
	d.index, d.up, d.addrs, d.txChecksum, d.acceptsRA = f.next, false, "", true, true
	f.next++
	f.has.device = &d
	return d.index, nil
}

func (f *fakeKernel) adjustDevice(has, want device) error {
	reasons := want.differences(has)
	if len(reasons) == 0 {
		return nil
	}
	if err := f.change("adjust link: %s", strings.Join(reasons, ", ")); err != nil {
		return err
	}
	d := *f.has.device
	d.mac, d.mtu, d.up, d.addrs, d.strictRPFilter, d.acceptsRA, d.txChecksum = want.mac, want.mtu, true, want.addrs, false, false, want.txChecksum
	f.has.device = &d
	return nil
}

func (f *fakeKernel) removeDevice(d device) error {
	if err := f.change("remove link %s", d.name); err != nil {
		return err
	}
	f.has = f.has.withoutDevice(d.index)
	f.has.neighs, f.has.fdb = map[netip.Addr]mac{}, map[fdbEntry]struct{}{}
	return nil
}

func (f *fakeKernel) setRoute(key routeKey, to nextHop, replace bool) error {
	verb := "add"
	if replace {
		verb = "replace"
	}
	if err := f.change("%s %s %s", verb, key, to); err != nil {
		return err
	}
	if _, there := f.has.routes[key]; there != replace {
		return fmt.Errorf("%s is there: %t", key, there)
	}
	f.has.routes[key] = to
	return nil
}

func (f *fakeKernel) delRoute(key routeKey, was nextHop) error {
	delete(f.has.routes, key)
	return f.change("delete %s %s", key, was)
}

func (f *fakeKernel) setNeigh(link int, a netip.Addr, to mac) error {
	if err := f.change("set neigh %s lladdr %s dev %d", a, to, link); err != nil {
		return err
	}
	f.has.neighs[a] = to
	return nil
}

func (f *fakeKernel) delNeigh(link int, a netip.Addr) error {
	delete(f.has.neighs, a)
	return f.change("delete neigh %s dev %d", a, link)
}

// setFDB replaces, as the kernel does, the entry of another place.
func (f *fakeKernel) setFDB(link int, e fdbEntry) error {
	if err := f.change("set %s dev %d", e, link); err != nil {
		return err
	}
	maps.DeleteFunc(f.has.fdb, func(old fdbEntry, _ struct{}) bool { return old.mac == e.mac })
	f.has.fdb[e] = struct{}{}
	return nil
}

func (f *fakeKernel) delFDB(link int, e fdbEntry) error {
	delete(f.has.fdb, e)
	return f.change("delete %s dev %d", e, link)
}
