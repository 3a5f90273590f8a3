package overlay

import (
	"encoding/binary"
	"iter"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brink/network/rtnl"
)

// Messages of rtnetlink(7), as they come in answers and in notifications. They
// are read here and not by the netlink library because with a thousand peers
// there are thousands: it makes some twenty objects of each.

var native = binary.NativeEndian

const (
	sizeofNdmsg  = 12 // struct ndmsg of linux/neighbour.h
	rtaNextHopID = 30 // RTA_NH_ID of linux/rtnetlink.h
)

// attributes yields the type and value of each attribute in b.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(native.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

func number(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(native.Uint32(b))
}

func address(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// routeMsg is the part of a route that is used.
type routeMsg struct {
	key      routeKey
	nextHop  nextHop
	protocol int
	main     bool // is in the main table
}

// parseRoute reads what follows the header of RTM_NEWROUTE or RTM_DELROUTE.
func parseRoute(b []byte) (r routeMsg, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	family, bits, tos, table, kind := b[0], int(b[1]), b[3], int(b[4]), b[7]
	if native.Uint32(b[8:])&unix.RTM_F_CLONED != 0 {
		return r, false // what the kernel has learnt of a path's MTU, with the route's protocol
	}
	r.protocol = int(b[5])
	r.nextHop.onlink = native.Uint32(b[8:])&unix.RTNH_F_ONLINK != 0
	r.nextHop.nonstandard = tos != 0 || kind != unix.RTN_UNICAST
	var dst netip.Addr
	for t, v := range attributes(b[unix.SizeofRtMsg:]) {
		switch t {
		case unix.RTA_DST:
			dst = address(v)
		case unix.RTA_GATEWAY:
			r.nextHop.via = address(v)
		case unix.RTA_OIF:
			r.nextHop.link = number(v)
		case unix.RTA_PRIORITY:
			r.key.metric = number(v)
		case unix.RTA_TABLE:
			table = number(v)
		case unix.RTA_MULTIPATH, rtaNextHopID, unix.RTA_VIA, unix.RTA_PREFSRC, unix.RTA_METRICS, unix.RTA_ENCAP:
			r.nextHop.nonstandard = true
		}
	}
	r.main = table == unix.RT_TABLE_MAIN
	switch {
	case family != unix.AF_INET && family != unix.AF_INET6:
		return r, false
	case dst.IsValid():
	case family == unix.AF_INET:
		dst = netip.IPv4Unspecified()
	default:
		dst = netip.IPv6Unspecified()
	}
	r.key.dst = netip.PrefixFrom(dst, bits)
	return r, true
}

// isService reports whether a route is ours but leads to Services, not to a peer.
func (r routeMsg) isService() bool {
	return r.main && r.protocol == rtnl.RouteProtocol && r.key.metric == rtnl.ServiceMetric
}

// neighMsg is the part that is used of a neighbour or, when bridge is set, of an FDB
// entry.
type neighMsg struct {
	link      int
	bridge    bool
	permanent bool
	addr      netip.Addr
	mac       mac
}

// parseNeigh reads what follows the header of RTM_NEWNEIGH or RTM_DELNEIGH.
func parseNeigh(b []byte) (n neighMsg, ok bool) {
	if len(b) < sizeofNdmsg {
		return n, false
	}
	n.link = number(b[4:])
	n.bridge = b[0] == unix.AF_BRIDGE
	n.permanent = native.Uint16(b[8:])&unix.NUD_PERMANENT != 0
	for t, v := range attributes(b[sizeofNdmsg:]) {
		switch {
		case t == unix.NDA_DST:
			n.addr = address(v)
		case t == unix.NDA_LLADDR && len(v) == len(n.mac):
			n.mac = mac(v)
		}
	}
	return n, true
}

// addrMsg is an address of a link.
type addrMsg struct {
	link int
	addr netip.Prefix
}

// parseAddr reads what follows the header of RTM_NEWADDR or RTM_DELADDR.
func parseAddr(b []byte) (a addrMsg, ok bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return a, false
	}
	a.link = number(b[4:])
	var addr, local netip.Addr
	for t, v := range attributes(b[unix.SizeofIfAddrmsg:]) {
		switch t {
		case unix.IFA_ADDRESS: // the other end's on a point-to-point link
			addr = address(v)
		case unix.IFA_LOCAL:
			local = address(v)
		}
	}
	if local.IsValid() {
		addr = local
	}
	a.addr = netip.PrefixFrom(addr, int(b[1]))
	return a, addr.IsValid()
}

// parseLink reads index and name from RTM_NEWLINK or RTM_DELLINK, and whether the link
// is a VXLAN device, brink's or not.
func parseLink(b []byte) (index int, name []byte, isTunnel bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return 0, nil, false
	}
	for t, v := range attributes(b[unix.SizeofIfInfomsg:]) {
		switch {
		case t == unix.IFLA_IFNAME && len(v) > 0:
			name = v[:len(v)-1] // without the NUL
		case t == unix.IFLA_LINKINFO:
			for t, kind := range attributes(v) {
				isTunnel = isTunnel || t == unix.IFLA_INFO_KIND && unix.ByteSliceToString(kind) == "vxlan"
			}
		}
	}
	return number(b[4:]), name, isTunnel
}

// request is a message's fixed part.
type request []byte

func (r request) Len() int          { return len(r) }
func (r request) Serialize() []byte { return r }

// sized is a fixed part of zeros but for the family and, where given, the
// 32-bit number at offset 4, which is the link's in most of them.
func sized(size int, family uint8, link int) request {
	r := make(request, size)
	r[0] = family
	if size >= 8 {
		native.PutUint32(r[4:], uint32(link))
	}
	return r
}

// interrupted reports whether something came or went during a dump.
func interrupted(err error) bool { return err == netlink.ErrDumpInterrupted }
