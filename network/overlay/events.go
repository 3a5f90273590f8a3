package overlay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"brink/network/rtnl"
)

// eventFilter knows what the kernel is to have for peers and tells notifications that
// contradict it from the rest. Most are about changes that were made here, or about
// pods that come and go, and are no reason to ask the kernel for everything.
type eventFilter struct {
	mu     sync.Mutex
	name   []byte // of the device
	device int    // its index, 0 when there is none
	links  []int  // that peers are reached over
	want   entries
}

// update replaces what is wanted. The maps must not change any more.
func (f *eventFilter) update(u underlay, device int, want entries) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.device, f.want, f.links = device, want, nil
	add := func(index int) {
		if !slices.Contains(f.links, index) {
			f.links = append(f.links, index)
		}
	}
	for _, l := range u.links {
		add(l.index)
	}
	for _, h := range want.routes {
		add(h.link)
	}
}

// effect says what a notification concerns.
type effect struct{ links, peers bool }

// classify reads one notification. Comparing in vain costs little, and a change that
// goes unseen lasts until the next full check: so what is not known to be harmless
// counts.
func (f *eventFilter) classify(kind uint16, b []byte) effect {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		index, name, isTunnel := parseLink(b)
		return effect{links: true, peers: isTunnel || string(name) == string(f.name) || index != 0 && index == f.device || slices.Contains(f.links, index)}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		// Every link with IPv6 has a link-local address, a pod's too.
		a, ok := parseAddr(b)
		return effect{links: true, peers: ok && !a.addr.Addr().IsLinkLocalUnicast()}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, ok := parseRoute(b)
		if !ok || !r.main {
			return effect{}
		}
		if r.isService() {
			return effect{links: kind == unix.RTM_DELROUTE}
		}
		return effect{peers: f.routeMatters(kind == unix.RTM_NEWROUTE, r)}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return effect{peers: f.neighMatters(kind == unix.RTM_NEWNEIGH, b)}
	}
	return effect{}
}

// routeMatters reports whether a route that is there now, or is gone, contradicts
// what is wanted.
func (f *eventFilter) routeMatters(there bool, r routeMsg) bool {
	if r.protocol != rtnl.RouteProtocol {
		_, wanted := f.want.routes[routeTo(r.key.dst)]
		return wanted // it may be, or have been, in the place of ours
	}
	want, wanted := f.want.routes[r.key]
	return there != (wanted && want == r.nextHop)
}

// neighMatters does the same for neighbours and FDB entries.
func (f *eventFilter) neighMatters(there bool, b []byte) bool {
	n, ok := parseNeigh(b)
	if !ok || n.link != f.device || f.device == 0 {
		return false
	}
	if n.bridge {
		_, wanted := f.want.fdb[fdbEntry{n.mac, n.addr}]
		return there != wanted
	}
	want, wanted := f.want.neighs[n.addr]
	if !wanted && !n.permanent {
		return false // the kernel's own, of groups and of addresses nobody has
	}
	return there != (wanted && n.permanent && want == n.mac)
}

// rtnetlink groups, as bits (linux/rtnetlink.h).
const watchedGroups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_NEIGH-1) |
	1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)

// Watch wakes the caller, until ctx ends, when something changes in the network
// namespace of the calling thread that concerns the pod network: the entries of peers,
// and any link or address. It does not say what. After a change that concerns peers
// the next Reconcile compares everything.
func (o *Overlay) Watch(ctx context.Context) error {
	socket, err := subscribe()
	if err != nil {
		return fmt.Errorf("subscribing to changes of links and routes: %w", err)
	}
	context.AfterFunc(ctx, func() { socket.Close() })
	go o.readEvents(ctx, socket)
	return nil
}

func (o *Overlay) readEvents(ctx context.Context, socket *os.File) {
	buffer := make([]byte, 64<<10) // a notification has a few hundred bytes, a link's a few thousand
	for {
		n, err := socket.Read(buffer)
		seen := effect{}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS): // some were lost
			seen = effect{true, true}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			o.log.Warn("changes of links and routes are noticed later from now on", "error", err)
			return
		default:
			seen = classifyAll(o.filter, buffer[:n])
		}
		if seen.peers {
			o.markDirty()
		}
		if seen.peers || seen.links {
			o.wake()
		}
	}
}

func subscribe() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: watchedGroups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	// Room for the thousands of changes that are made here when a cluster of that size
	// is met for the first time. Without the right to it less will do.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}

// classifyAll reads what one receive brought.
func classifyAll(filter *eventFilter, b []byte) effect {
	var all effect
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(native.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			break
		}
		one := filter.classify(native.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size])
		all.links, all.peers = all.links || one.links, all.peers || one.peers
		b = b[min((size+3)&^3, len(b)):]
	}
	return all
}
