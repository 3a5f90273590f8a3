package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"brink/network/rtnl"
)

// watchlist is what the kernel shall have for peers, by which notifications are
// told apart: those of the loop's own changes and of pods that come and go are
// the most, and none of them is a reason to look.
type watchlist struct {
	mu       sync.Mutex
	name     []byte // of the device
	device   int    // its index, 0 when there is none
	links    []int  // that peers are reached over
	underlay []netip.Addr
	want     ways
}

// set replaces the list. The maps must not change any more.
func (w *watchlist) set(g ground, device int, want ways) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.device, w.want = device, want
	w.links, w.underlay = nil, nil
	note := func(index int) {
		if !slices.Contains(w.links, index) {
			w.links = append(w.links, index)
		}
	}
	for addr, l := range g.holders {
		w.underlay = append(w.underlay, addr)
		note(l.index)
	}
	for _, h := range want.routes {
		note(h.link)
	}
}

// news is what a notification calls for.
type news struct{ links, peers bool }

// judge reads one notification. A loop that looks in vain costs little, a change
// that goes unseen lasts until the next full look: so what is not known to be
// harmless counts.
func (w *watchlist) judge(kind uint16, b []byte) news {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		index, name, isTunnel := parseLink(b)
		return news{links: true, peers: isTunnel || string(name) == string(w.name) || index != 0 && index == w.device || slices.Contains(w.links, index)}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		// Every link with IPv6 has a link-local address, a pod's too.
		a, ok := parseAddr(b)
		return news{links: true, peers: ok && !a.addr.Addr().IsLinkLocalUnicast()}
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		r, ok := parseRoute(b)
		if !ok || !r.main {
			return news{}
		}
		if r.isService() {
			return news{links: kind == unix.RTM_DELROUTE}
		}
		return news{peers: w.mindsRoute(kind == unix.RTM_NEWROUTE, r)}
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return news{peers: w.mindsNeigh(kind == unix.RTM_NEWNEIGH, b)}
	}
	return news{}
}

// mindsRoute tells whether it matters that a route is there now, or is gone.
func (w *watchlist) mindsRoute(there bool, r routeMsg) bool {
	if r.protocol != rtnl.RouteProtocol {
		_, wanted := w.want.routes[wayTo(r.key.dst)]
		return wanted // it may stand in the way of ours, or have stood there
	}
	want, wanted := w.want.routes[r.key]
	return there != (wanted && want == r.hop)
}

func (w *watchlist) mindsNeigh(there bool, b []byte) bool {
	n, ok := parseNeigh(b)
	if !ok || n.link != w.device || w.device == 0 {
		return false
	}
	if n.bridge {
		_, wanted := w.want.fdb[fdbEntry{n.mac, n.addr}]
		return there != wanted
	}
	want, wanted := w.want.neighs[n.addr]
	if !wanted && !n.permanent {
		return false // the kernel's own, of groups and of addresses nobody has
	}
	return there != (wanted && n.permanent && want == n.mac)
}

// rtnetlink groups, as bits (linux/rtnetlink.h).
const watchedGroups = 1<<(unix.RTNLGRP_LINK-1) | 1<<(unix.RTNLGRP_NEIGH-1) |
	1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1) |
	1<<(unix.RTNLGRP_IPV4_ROUTE-1) | 1<<(unix.RTNLGRP_IPV6_ROUTE-1)

// Watch wakes the caller when something changed in the network namespace of the
// calling thread that concerns the pod network, until ctx ends: that of peers, and all
// links and addresses. It says that there was something, not what; when it was about
// peers, the next Reconcile looks. Without events the caller looks at its own pace.
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
		seen := news{}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, unix.ENOBUFS): // more came than fits: something came
			seen = news{true, true}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			o.log.Warn("changes of links and routes are noticed later from now on", "error", err)
			return
		default:
			seen = judgeAll(o.watch, buffer[:n])
		}
		if seen.peers {
			o.beUnsure()
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
	// Room for the thousands of changes that the loop itself makes when a cluster
	// of that size is met for the first time; without the right to it, less does.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}

// judgeAll reads what one receive brought.
func judgeAll(list *watchlist, b []byte) news {
	var all news
	for len(b) >= unix.SizeofNlMsghdr {
		size := int(native.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			break
		}
		one := list.judge(native.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size])
		all.links, all.peers = all.links || one.links, all.peers || one.peers
		b = b[min((size+3)&^3, len(b)):]
	}
	return all
}
