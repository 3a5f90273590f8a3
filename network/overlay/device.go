package overlay

import (
	"fmt"
	"net/netip"
)

// device is the VXLAN device as it is or as it is wanted.
type device struct {
	name           string
	index          int // 0 while it does not exist
	vni            int
	port           int
	local          netip.Addr
	parent         int  // index of the link that carries it, 0 for any
	learning       bool // remembers senders
	floods         bool // sends what it knows no peer for to a default destination
	mac            mac
	mtu            int
	up             bool
	addrs          string // as text and in order
	strictRPFilter bool   // drops packets that the kernel would answer by another link
	acceptsRA      bool   // believes IPv6 router advertisements
	txChecksum     bool   // leaves checksums of what it sends to the hardware
}

// whyRecreate says why has cannot be changed to become want. It is empty when it can.
// The kernel cannot change most of these on a device that exists, and where it can (the
// local address, learning) only since some version. A device that is removed is back with
// all of its entries a moment later.
func (want device) whyRecreate(has device) string {
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
		return "it learns from what it receives, but it is told its peers"
	case has.floods != want.floods:
		return "it floods what it has no peer for"
	}
	return ""
}

// differences lists why has must be changed in place to become want.
func (want device) differences(has device) []string {
	var reasons []string
	because := func(differs bool, format string, args ...any) {
		if differs {
			reasons = append(reasons, fmt.Sprintf(format, args...))
		}
	}
	because(has.mac != want.mac, "its MAC address is %s, must be %s", has.mac, want.mac)
	because(has.mtu != want.mtu, "its MTU is %d, must be %d", has.mtu, want.mtu)
	because(has.addrs != want.addrs, "its addresses are %q, must be %q", has.addrs, want.addrs)
	because(has.strictRPFilter, "rp_filter is strict, but paths between nodes need not be the same in both directions")
	because(has.acceptsRA, "it believes router advertisements, but no node is a router of another")
	because(has.txChecksum && !want.txChecksum, "checksums left to the hardware do not get filled in")
	because(!has.up, "it is down")
	return reasons
}
