package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"brink/network/rtnl"
	"brink/network/sysctl"
)

// netstack is the kernel's network stack in the namespace of the thread that
// opened it.
type netstack struct {
	log    *slog.Logger
	handle *netlink.Handle
	asks   map[int]*nl.SocketHandle // of messages that are read here
	links  map[int]link             // as they were described since holders was asked
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
	s.asks[unix.NETLINK_ROUTE].Close()
}

// dump asks for all of a kind. What came or went in the meantime is asked for
// again from the start; begin is called before.
func (s *netstack) dump(kind int, body request, attr *nl.RtAttr, begin func(), each func([]byte)) error {
	var err error
	for range 10 {
		req := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
		req.Sockets = s.asks
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

func (s *netstack) holders(addrs []netip.Addr) (map[netip.Addr]link, error) {
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
		carries:   a.RawFlags&unix.IFF_BROADCAST != 0 && a.RawFlags&(unix.IFF_NOARP|unix.IFF_POINTOPOINT) == 0,
		hasNoWire: a.RawFlags&unix.IFF_LOOPBACK != 0 || l.Type() == "dummy",
	}
	return s.links[index], nil
}

func (s *netstack) lookup(to netip.Addr) (answer, error) {
	routes, err := s.handle.RouteGet(to.AsSlice())
	if err != nil {
		return answer{}, err
	}
	if len(routes) == 0 {
		return answer{}, unix.ENETUNREACH
	}
	l, err := s.link(routes[0].LinkIndex)
	if err != nil {
		return answer{}, err
	}
	gateway, _ := netip.AddrFromSlice(routes[0].Gw)
	return answer{link: l, gateway: gateway.Unmap(), local: routes[0].Type == unix.RTN_LOCAL}, nil
}

func (s *netstack) look(name string, wanted map[routeKey]hop) (found, error) {
	out := found{ways: newWays(), foreign: map[netip.Prefix]int{}}
	var err error
	if out.device, err = s.lookDevice(name); err != nil {
		return out, fmt.Errorf("looking at link %s: %w", name, err)
	}
	if err := s.lookRoutes(&out, wanted); err != nil {
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

func (s *netstack) lookRoutes(out *found, wanted map[routeKey]hop) error {
	return s.dump(unix.RTM_GETROUTE, sized(unix.SizeofRtMsg, unix.AF_UNSPEC, 0), nil, func() { clear(out.routes); clear(out.foreign) }, func(b []byte) {
		r, ok := parseRoute(b)
		if !ok || !r.main {
			return
		}
		if r.isService() {
			return
		}
		if r.protocol == rtnl.RouteProtocol {
			out.routes[r.key] = r.hop
			return
		}
		want := wayTo(r.key.dst)
		if _, ok := wanted[want]; ok && r.key.metric <= want.metric {
			out.foreign[r.key.dst] = r.protocol
		}
	})
}

func (s *netstack) lookDevice(name string) (*device, error) {
	l, err := s.handle.LinkByName(name)
	if rtnl.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v, ok := l.(*netlink.Vxlan)
	if !ok {
		return nil, fmt.Errorf("there is a %s of this name: remove or rename it", l.Type())
	}
	local, _ := netip.AddrFromSlice(v.SrcAddr)
	d := &device{
		name: name, index: v.Index, vni: v.VxlanId, port: v.Port, local: local.Unmap(), parent: v.VtepDevIndex,
		learning: v.Learning, group: v.Group != nil && !v.Group.IsUnspecified(), mtu: v.MTU, up: v.RawFlags&unix.IFF_UP != 0,
		strict: isStrict(name), hears: isSetTo("net/ipv6/conf/"+name+"/accept_ra", "1", "2"),
	}
	if len(v.HardwareAddr) == len(d.mac) {
		d.mac = mac(v.HardwareAddr)
	}
	if d.checksum, err = hasChecksumOffload(name); errors.Is(err, unix.ENODEV) {
		return nil, nil // it went in the meantime
	} else if err != nil {
		return nil, err
	}
	d.addrs, err = s.addrsOf(v.Index)
	return d, err
}

// addrsOf lists a link's addresses without those that the kernel makes itself.
func (s *netstack) addrsOf(index int) (string, error) {
	var out []netip.Prefix
	err := s.dump(unix.RTM_GETADDR, sized(unix.SizeofIfAddrmsg, unix.AF_UNSPEC, 0), nil, func() { out = nil }, func(b []byte) {
		if a, ok := parseAddr(b); ok && a.link == index && !a.addr.Addr().IsLinkLocalUnicast() {
			out = append(out, a.addr)
		}
	})
	return joined(out), err
}

// joined is the text of prefixes in their order.
func joined(prefixes []netip.Prefix) string {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, " ")
}

// isStrict tells whether packets that come in by a link are dropped when the
// kernel would not answer through it. The stricter of two settings counts, where
// loose (2) is above strict (1): ip-sysctl.rst, rp_filter.
func isStrict(name string) bool {
	all, err := sysctl.Get("net/ipv4/conf/all/rp_filter")
	own, err2 := sysctl.Get("net/ipv4/conf/" + name + "/rp_filter")
	return err == nil && err2 == nil && max(all, own) == "1"
}

func isSetTo(key string, values ...string) bool {
	has, err := sysctl.Get(key)
	return err == nil && slices.Contains(values, has)
}

func (s *netstack) makeDevice(d device) (int, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = d.name, d.mtu, d.mac[:]
	err := s.handle.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: d.vni, Port: d.port, SrcAddr: d.local.AsSlice(), VtepDevIndex: d.parent, Learning: d.learning,
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return 0, fmt.Errorf("the kernel has no VXLAN: install the kernel's module package or use a kernel built with CONFIG_VXLAN (%w)", err)
	}
	if err != nil {
		return 0, err
	}
	l, err := s.handle.LinkByName(d.name)
	if err != nil {
		return 0, err
	}
	// The device talks to peers alone; what the kernel would say on it by itself
	// (neighbour discovery, group membership) nobody hears. IPv6 may be off.
	if err := s.handle.LinkSetIP6AddrGenMode(l, nl.IN6_ADDR_GEN_MODE_NONE); err != nil && sysctl.Exists("net/ipv6/conf/"+d.name) {
		return 0, fmt.Errorf("switching link-local addresses off: %w", err)
	}
	return l.Attrs().Index, nil
}

func (s *netstack) removeDevice(d device) error {
	l, err := s.handle.LinkByIndex(d.index)
	if err == nil {
		err = s.handle.LinkDel(l)
	}
	if err != nil && !rtnl.IsGone(err) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing link %s: %w", d.name, err)
	}
	return nil
}

func (s *netstack) adjustDevice(has, want device) error {
	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: has.index, Name: want.name}}
	var errs []error
	try := func(needed bool, doing string, do func() error) {
		if !needed {
			return
		}
		if err := do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", doing, err))
		}
	}
	conf := func(family, key, value string) func() error {
		return func() error { return sysctl.Set(s.log, filepath.Join("net", family, "conf", want.name, key), value) }
	}
	try(has.mac != want.mac, "changing the MAC address", func() error { return s.handle.LinkSetHardwareAddr(l, want.mac[:]) })
	try(has.mtu != want.mtu, "changing the MTU", func() error { return s.handle.LinkSetMTU(l, want.mtu) })
	try(has.strict, "loosening rp_filter", conf("ipv4", "rp_filter", "2"))
	try(has.hears, "refusing router advertisements", conf("ipv6", "accept_ra", "0"))
	try(has.checksum && !want.checksum, "switching checksum offload off", func() error { return switchChecksumOffloadOff(want.name) })
	try(has.addrs != want.addrs, "changing addresses", func() error { return s.setAddrs(l, has.addrs, want.addrs) })
	try(!has.up, "setting it up", func() error { return s.handle.LinkSetUp(l) })
	return errors.Join(errs...)
}

// setAddrs adds and removes what differs between two lists.
func (s *netstack) setAddrs(l netlink.Link, has, want string) error {
	old, wanted := strings.Fields(has), strings.Fields(want)
	var errs []error
	each := func(list, but []string, do func(netlink.Link, *netlink.Addr) error, fine error) {
		for _, text := range list {
			if slices.Contains(but, text) {
				continue
			}
			addr, err := netlink.ParseAddr(text)
			if err == nil {
				if addr.IP.To4() == nil {
					addr.Flags |= unix.IFA_F_NODAD // no peer has it, and asking takes a second
				}
				err = do(l, addr)
			}
			if err != nil && !errors.Is(err, fine) {
				errs = append(errs, fmt.Errorf("%s: %w", text, err))
			}
		}
	}
	each(wanted, old, s.handle.AddrAdd, unix.EEXIST)
	each(old, wanted, s.handle.AddrDel, unix.EADDRNOTAVAIL)
	return errors.Join(errs...)
}

func (s *netstack) setRoute(key routeKey, to hop, replace bool) error {
	write := s.handle.RouteAdd // refuses when there is one
	if replace {
		write = s.handle.RouteReplace
	}
	return write(netlinkRoute(key, to))
}

func (s *netstack) delRoute(key routeKey, was hop) error {
	route := netlinkRoute(key, was)
	if was.odd { // all of this key and protocol
		route.Gw, route.LinkIndex, route.Flags = nil, 0, 0
	}
	err := s.handle.RouteDel(route)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func netlinkRoute(key routeKey, to hop) *netlink.Route {
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
