package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"brink/network/rtnl"
)

// netstack is the kernel's network stack in the namespace of the thread that
// opened it.
type netstack struct {
	log     *slog.Logger
	handle  *netlink.Handle
	sockets map[int]*nl.SocketHandle // of requests whose answers are read here
	links   map[int]link             // as they were described since linksOf was asked
}

func openNetstack(log *slog.Logger) (*netstack, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	return &netstack{log, handle, map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}, map[int]link{}}, nil
}

func (s *netstack) close() {
	s.handle.Close()
	s.sockets[unix.NETLINK_ROUTE].Close()
}

// dump asks for everything of a kind. When something came or went in the meantime, all
// is asked for again; begin is called before each answer.
func (s *netstack) dump(kind int, body request, attr *nl.RtAttr, begin func(), each func([]byte)) error {
	var err error
	for range 10 {
		req := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
		req.Sockets = s.sockets
		req.AddData(body)
		if attr != nil {
			req.AddData(attr)
		}
		begin()
		err = req.ExecuteIter(unix.NETLINK_ROUTE, 0, func(b []byte) bool { each(b); return true })
		if !interrupted(err) {
			break
		}
	}
	return err
}

func (s *netstack) linksOf(addrs []netip.Addr) (map[netip.Addr]link, error) {
	clear(s.links)
	index := map[netip.Addr]int{}
	err := s.dump(unix.RTM_GETADDR, sized(unix.SizeofIfAddrmsg, unix.AF_UNSPEC, 0), nil, func() { clear(index) }, func(b []byte) {
		if a, ok := parseAddr(b); ok && slices.Contains(addrs, a.addr.Addr()) {
			index[a.addr.Addr()] = a.link
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	out := map[netip.Addr]link{}
	for addr, i := range index {
		l, err := s.link(i)
		if rtnl.IsGone(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking at link %d: %w", i, err)
		}
		out[addr] = l
	}
	return out, nil
}

func (s *netstack) link(index int) (link, error) {
	if known, ok := s.links[index]; ok {
		return known, nil
	}
	l, err := s.handle.LinkByIndex(index)
	if err != nil {
		return link{}, err
	}
	a := l.Attrs()
	s.links[index] = link{
		index: a.Index, mtu: a.MTU, name: a.Name,
		broadcast: a.RawFlags&unix.IFF_BROADCAST != 0 && a.RawFlags&(unix.IFF_NOARP|unix.IFF_POINTOPOINT) == 0,
		virtual:   a.RawFlags&unix.IFF_LOOPBACK != 0 || l.Type() == "dummy",
	}
	return s.links[index], nil
}

func (s *netstack) pathTo(to netip.Addr) (path, error) {
	routes, err := s.handle.RouteGet(to.AsSlice())
	if err != nil {
		return path{}, err
	}
	if len(routes) == 0 {
		return path{}, unix.ENETUNREACH
	}
	l, err := s.link(routes[0].LinkIndex)
	if err != nil {
		return path{}, err
	}
	gateway, _ := netip.AddrFromSlice(routes[0].Gw)
	return path{link: l, gateway: gateway.Unmap(), local: routes[0].Type == unix.RTN_LOCAL}, nil
}

func (s *netstack) inspect(name string, wanted map[routeKey]nextHop) (kernelState, error) {
	out := kernelState{entries: newEntries(), foreign: map[netip.Prefix]int{}}
	var err error
	if out.device, err = s.inspectDevice(name); err != nil {
		return out, fmt.Errorf("looking at link %s: %w", name, err)
	}
	if err := s.inspectRoutes(&out, wanted); err != nil {
		return out, fmt.Errorf("listing routes: %w", err)
	}
	if out.device == nil {
		return out, nil
	}
	link := out.device.index
	onDevice := nl.NewRtAttr(unix.NDA_IFINDEX, nl.Uint32Attr(uint32(link)))
	err = s.dump(unix.RTM_GETNEIGH, sized(sizeofNdmsg, unix.AF_UNSPEC, 0), onDevice, func() { clear(out.neighs) }, func(b []byte) {
		if n, ok := parseNeigh(b); ok && n.link == link && n.permanent {
			out.neighs[n.addr] = n.mac
		}
	})
	if err != nil {
		return out, fmt.Errorf("listing neighbours: %w", err)
	}
	// The kernel takes the link's number from here only in a struct ifinfomsg.
	err = s.dump(unix.RTM_GETNEIGH, sized(unix.SizeofIfInfomsg, unix.AF_BRIDGE, link), nil, func() { clear(out.fdb) }, func(b []byte) {
		if n, ok := parseNeigh(b); ok && n.link == link {
			out.fdb[fdbEntry{n.mac, n.addr}] = struct{}{}
		}
	})
	if err != nil {
		return out, fmt.Errorf("listing FDB entries: %w", err)
	}
	return out, nil
}

func (s *netstack) inspectRoutes(out *kernelState, wanted map[routeKey]nextHop) error {
	return s.dump(unix.RTM_GETROUTE, sized(unix.SizeofRtMsg, unix.AF_UNSPEC, 0), nil, func() { clear(out.routes); clear(out.foreign) }, func(b []byte) {
		r, ok := parseRoute(b)
		if !ok || !r.main {
			return
		}
		if r.isService() {
			return
		}
		if r.protocol == rtnl.RouteProtocol {
			out.routes[r.key] = r.nextHop
			return
		}
		want := routeTo(r.key.dst)
		if _, ok := wanted[want]; ok && r.key.metric <= want.metric {
			out.foreign[r.key.dst] = r.protocol
		}
	})
}

func (s *netstack) setRoute(key routeKey, to nextHop, replace bool) error {
	write := s.handle.RouteAdd // refuses when there is one
	if replace {
		write = s.handle.RouteReplace
	}
	return write(netlinkRoute(key, to))
}

func (s *netstack) delRoute(key routeKey, was nextHop) error {
	route := netlinkRoute(key, was)
	if was.nonstandard { // all of this key and protocol
		route.Gw, route.LinkIndex, route.Flags = nil, 0, 0
	}
	err := s.handle.RouteDel(route)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func netlinkRoute(key routeKey, to nextHop) *netlink.Route {
	route := &netlink.Route{
		Dst:       &net.IPNet{IP: key.dst.Addr().AsSlice(), Mask: net.CIDRMask(key.dst.Bits(), key.dst.Addr().BitLen())},
		Priority:  key.metric,
		Gw:        to.via.AsSlice(),
		LinkIndex: to.link,
		Protocol:  rtnl.RouteProtocol,
	}
	if to.onlink {
		route.Flags = unix.RTNH_F_ONLINK
	}
	return route
}

func (s *netstack) setNeigh(link int, addr netip.Addr, to mac) error {
	return s.handle.NeighSet(&netlink.Neigh{LinkIndex: link, IP: addr.AsSlice(), HardwareAddr: to[:], State: unix.NUD_PERMANENT})
}

func (s *netstack) delNeigh(link int, addr netip.Addr) error {
	return unlessGone(s.handle.NeighDel(&netlink.Neigh{LinkIndex: link, IP: addr.AsSlice()}))
}

func (s *netstack) setFDB(link int, e fdbEntry) error {
	return s.handle.NeighSet(netlinkFDB(link, e))
}

func (s *netstack) delFDB(link int, e fdbEntry) error {
	return unlessGone(s.handle.NeighDel(netlinkFDB(link, e)))
}

func netlinkFDB(link int, e fdbEntry) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: link, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT,
		IP: e.dst.AsSlice(), HardwareAddr: e.mac[:],
	}
}

func unlessGone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// protocolName is what iproute2 calls some routes' makers.
func protocolName(protocol int) string {
	names := map[int]string{unix.RTPROT_KERNEL: "kernel", unix.RTPROT_BOOT: "boot", unix.RTPROT_STATIC: "static", unix.RTPROT_DHCP: "dhcp", unix.RTPROT_RA: "ra"}
	if name, ok := names[protocol]; ok {
		return name
	}
	return fmt.Sprint(protocol)
}
