// Package nodeaddr finds the addresses by which other machines reach this one, where the
// user has not given them.
//
// The address of the default route's interface is the right one wherever there
// is a default route. There is none when a cable is out, a DHCP server is down or a
// network has no gateway. Then the address of the last start is the best guess: the
// cluster knows the node by it, and it comes back with the cable. Only a machine that
// never had one uses another interface, and never a bridge of containers: brink's own and
// Docker's are up when nothing else is.
//
// A process has one Watcher, which owns the node's addresses. A server asks it to end
// the process when the address in its certificate is gone; an agent follows it, and
// tells the network and the cluster.
//
// Read in this order: nodeaddr.go, watcher.go, find.go, links.go.
package nodeaddr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Address is one of the machine's addresses.
type Address struct {
	IP   netip.Addr `json:"ip"`
	Link string     `json:"link"`
	// Gone is true if no interface has the address now, and it is from the last start.
	Gone bool `json:"-"`
}

// IsRoutable reports whether an address can be another machine's: it is not loopback,
// multicast or unspecified, and not link-local, which needs a link as well.
func IsRoutable(ip netip.Addr) bool {
	return ip.IsValid() && ip.Zone() == "" && !ip.IsUnspecified() && !ip.IsLoopback() && !ip.IsMulticast() && !ip.IsLinkLocalUnicast() && !isUnassignable(ip)
}

// thisNetwork is "this network" of RFC 1122. As a destination its meaning is up to the
// kernel.
var thisNetwork = netip.MustParsePrefix("0.0.0.0/8")

// isUnassignable reports whether no machine can have an IPv4 address: it is in
// thisNetwork, or the broadcast address.
func isUnassignable(ip netip.Addr) bool {
	ip = ip.Unmap()
	return ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || thisNetwork.Contains(ip)
}

// IsNeighbour reports whether this machine reaches an address without a router, by the
// present prefixes of its interfaces.
func IsNeighbour(ip netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Contains(ip)
	})
}

// Check returns why a node cannot have an address, nil when it can. inside are the
// ranges of pods and Services.
func Check(ip netip.Addr, inside []netip.Prefix) error {
	if !IsRoutable(ip) {
		return errors.New("other nodes cannot send to it")
	}
	for _, prefix := range inside {
		if prefix.Contains(ip) {
			return fmt.Errorf("%s has the addresses of pods or services", prefix)
		}
	}
	return nil
}

// describe lists addresses for people: "192.0.2.7 of eth0".
func describe(addrs []Address) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.IP.String()+" of "+a.Link)
	}
	return strings.Join(out, ", ")
}
