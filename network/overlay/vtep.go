package overlay

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"

	"brink/network/iprange"
)

// mac is an Ethernet address that can be compared.
type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// vtepMAC is the MAC address of a node's end of the tunnel. It follows from the
// node's pod prefix, so that nobody has to announce it, and does not change when
// the device is made again. With 46 bits of a hash, a cluster of 5,000 nodes has
// two alike with a chance of one in five million. The IPv4 prefix counts where
// there is one: the order of families may differ between nodes.
func vtepMAC(cidrs []netip.Prefix) mac {
	for _, p := range iprange.IPv4First(cidrs) {
		sum := sha256.Sum256([]byte("brink vtep " + p.String()))
		m := mac(sum[:6])
		m[0] = m[0]&^1 | 2 // unicast, locally administered
		return m
	}
	return mac{}
}

// vtepAddr is the address of a node's end of the tunnel: the first of its pod
// prefix, which no pod and no bridge has (see the package comment).
func vtepAddr(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr() }

// vtepHop is the next hop of routes to a node's pods through the tunnel, of the
// family of cidr. In IPv6 it is the link-local address that belongs to the MAC
// address (RFC 4291, appendix A), whether the other end has it or not, for only
// the neighbour entry counts: the kernel refuses any other "onlink" next hop that
// an existing route reaches by another link, such as the direct route that is to
// be replaced, or somebody's route to the whole cluster.
func vtepHop(cidr netip.Prefix, m mac) netip.Addr {
	if cidr.Addr().Is4() {
		return vtepAddr(cidr)
	}
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}

// host is the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// device is the VXLAN device as it is or shall be.
type device struct {
	name     string
	index    int // 0 while it does not exist
	vni      int
	port     int
	local    netip.Addr
	parent   int // index of the link that carries it, 0 for any
	learning bool
	group    bool // sends what it knows no peer for to a default destination
	mac      mac
	mtu      int
	up       bool
	addrs    string // its addresses, in text and in order
	strict   bool   // its packets must come from where the kernel would send to
	hears    bool   // it believes IPv6 router advertisements
	checksum bool   // it leaves checksums of what it sends to the hardware
}

// remake is why has cannot become want, empty when it can. The kernel cannot
// change most of these on a device that exists, and where it can (the local
// address, learning) only since some version; a device lost is back with all its
// entries a moment later.
func (want device) remake(has device) string {
	switch {
	case has.vni != want.vni:
		return fmt.Sprintf("its network identifier is %d, must be %d", has.vni, want.vni)
	case has.port != want.port:
		return fmt.Sprintf("its UDP port is %d, must be %d", has.port, want.port)
	case has.local != want.local:
		return fmt.Sprintf("its local address is %s, must be %s", has.local, want.local)
	case has.parent != want.parent:
		return fmt.Sprintf("it is carried by link number %d, must be by %d", has.parent, want.parent)
	case has.learning != want.learning:
		return "it learns from what it receives, but peers are told to it"
	case has.group != want.group:
		return "it floods what it has no peer for"
	}
	return ""
}

// adjust lists why has must be changed in place to become want.
func (want device) adjust(has device) []string {
	var reasons []string
	because := func(differs bool, format string, args ...any) {
		if differs {
			reasons = append(reasons, fmt.Sprintf(format, args...))
		}
	}
	because(has.mac != want.mac, "its MAC address is %s, must be %s", has.mac, want.mac)
	because(has.mtu != want.mtu, "its MTU is %d, must be %d", has.mtu, want.mtu)
	because(has.addrs != want.addrs, "its addresses are %q, must be %q", has.addrs, want.addrs)
	because(has.strict, "rp_filter is strict, but ways between nodes need not be the same in both directions")
	because(has.hears, "it believes router advertisements, but no node is a router of another")
	because(has.checksum && !want.checksum, "checksums left to the hardware do not get filled in")
	because(!has.up, "it is down")
	return reasons
}
