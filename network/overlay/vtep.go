package overlay

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"slices"
)

// mac is an Ethernet address that can be compared.
type mac [6]byte

func (m mac) String() string { return net.HardwareAddr(m[:]).String() }

// vtepMAC is the MAC address of a node's end of the tunnel, its VTEP. It follows from the
// node's pod prefix, so that nobody has to announce it and it does not change when
// the device is made again. With 46 bits of a hash, a cluster of 5,000 nodes has
// two alike with a chance of one in five million. The IPv4 prefix counts where
// there is one, because the order of families may differ between nodes.
func vtepMAC(cidrs []netip.Prefix) mac {
	if len(cidrs) == 0 {
		return mac{}
	}
	from := cidrs[0]
	if i := slices.IndexFunc(cidrs, func(p netip.Prefix) bool { return p.Addr().Is4() }); i >= 0 {
		from = cidrs[i]
	}
	sum := sha256.Sum256([]byte("brink vtep " + from.String()))
	m := mac(sum[:6])
	m[0] = m[0]&^1 | 2 // unicast, locally administered
	return m
}

// vtepAddr is the address of a node's end of the tunnel: the first of its pod
// prefix, which no pod and no bridge has (see the package comment).
func vtepAddr(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr() }

// vtepHop is the next hop of routes to a node's pods through the tunnel, of the
// family of cidr. In IPv6 it is the link-local address that belongs to the MAC
// address (RFC 4291, appendix A). The other end need not have it, for only the
// neighbour entry counts. The kernel refuses any other "onlink" next hop that
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
