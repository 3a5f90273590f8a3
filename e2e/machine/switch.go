package machine

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
)

// Switch is a network namespace with a bridge for each of its segments. Clients
// that are not on a node run there too. Its bridges show no packet to the rules of
// IP, as a switch does not.
type Switch struct {
	*Holder
	plugged atomic.Uint32
}

// Segment is a network of a switch.
type Segment struct {
	// Bridge is the name of its link on the switch.
	Bridge string
	// Net and Net6 are the networks of its machines. Net6 may be zero.
	Net, Net6 netip.Prefix
	// Routed gives the switch the gateway's addresses: it routes to its other
	// segments. Otherwise nobody has them.
	Routed bool
}

// Gateway is the first address of the segment.
func (s Segment) Gateway() netip.Addr { return s.Net.Masked().Addr().Next() }

// Gateway6 is the first IPv6 address of the segment.
func (s Segment) Gateway6() netip.Addr { return s.Net6.Masked().Addr().Next() }

// addr is the n-th IPv4 address, 1 being the gateway's.
func (s Segment) addr(n int) (netip.Addr, error) {
	bytes := s.Net.Masked().Addr().As4()
	if n < 1 || n > 254 {
		return netip.Addr{}, fmt.Errorf("segment %s has no address of number %d", s.Net, n)
	}
	bytes[3] = byte(n)
	return netip.AddrFrom4(bytes), nil
}

// addr6 is the IPv6 address with the number of an IPv4 address.
func (s Segment) addr6(addr netip.Addr) netip.Addr {
	bytes := s.Net6.Masked().Addr().As16()
	bytes[15] = addr.As4()[3]
	return netip.AddrFrom16(bytes)
}

// PlainBridges is a script after which the bridges of a network namespace show no
// packet to the rules of IP. It is for kernels that have br_netfilter: there they
// do unless told not to. Elsewhere there is no such setting.
const PlainBridges = `
f=/proc/sys/net/bridge/bridge-nf-call-iptables
[ ! -e $f ] || echo 0 > $f
`

// NewSwitch makes a switch. Its bridges have MAC addresses of their own: otherwise
// each has the lowest of its ports, and when the machine of that port goes, what
// others have under way to the switch is lost until they ask for its address again,
// for ten seconds and more.
func NewSwitch(segments ...Segment) (*Switch, error) {
	script := []string{PlainBridges}
	for i, s := range segments {
		script = append(script, fmt.Sprintf("ip link add %s address 02:00:00:00:fa:%02x type bridge", s.Bridge, i+1))
		if s.Routed {
			script = append(script, "echo 1 > /proc/sys/net/ipv4/ip_forward", s.addressCommand(s.Gateway(), s.Bridge))
		}
		if s.Routed && s.Net6.IsValid() {
			script = append(script, s.addressCommand(s.Gateway6(), s.Bridge))
		}
		script = append(script, "ip link set "+s.Bridge+" up")
	}
	h, err := HoldNetwork(strings.Join(script, "\n"))
	if err != nil {
		return nil, fmt.Errorf("making the switch: %w", err)
	}
	return &Switch{Holder: h}, nil
}

// addressCommand gives a link an address of the segment.
func (s Segment) addressCommand(addr netip.Addr, link string) string {
	if addr.Is6() {
		return fmt.Sprintf("ip address add %s/%d dev %s nodad", addr, s.Net6.Bits(), link)
	}
	return fmt.Sprintf("ip address add %s/%d dev %s", addr, s.Net.Bits(), link)
}

// Plug connects a network namespace to a segment by a link that is called eth0
// there, and returns an address that nobody else is given.
func (s *Switch) Plug(h *Holder, segment Segment) (netip.Addr, error) {
	number := int(s.plugged.Add(1))
	addr, err := segment.addr(number + 1)
	if err != nil {
		return addr, err
	}
	port := fmt.Sprintf("port%d", number)
	err = s.Run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(h.PID()))
	if err != nil {
		return addr, err
	}
	return addr, s.Run("ip", "link", "set", port, "master", segment.Bridge, "up")
}
