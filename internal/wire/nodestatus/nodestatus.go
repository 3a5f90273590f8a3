// Package nodestatus reads the addresses in the status of a Node: what a machine says of
// itself to servers and to other nodes. Both sides read it here, so that none takes for an
// address what another does not.
package nodestatus

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// InternalIPs returns the addresses by which other nodes reach this one.
func InternalIPs(node *corev1.Node) []netip.Addr {
	ips, _ := Parse(node, corev1.NodeInternalIP)
	return ips
}

// IPs returns the addresses of both kinds: those by which other nodes reach this one, and
// those by which it is reached from outside.
func IPs(node *corev1.Node) []netip.Addr {
	ips, _ := Parse(node, corev1.NodeInternalIP, corev1.NodeExternalIP)
	return ips
}

// Parse returns the addresses of the given types, and the texts among them that are no IP
// address. An IPv4 address in IPv6 form is returned as IPv4. A nil node has none.
func Parse(node *corev1.Node, types ...corev1.NodeAddressType) (ips []netip.Addr, invalid []string) {
	if node == nil {
		return nil, nil
	}
	for _, a := range node.Status.Addresses {
		if !slices.Contains(types, a.Type) {
			continue
		}
		ip, err := netip.ParseAddr(a.Address)
		if err != nil {
			invalid = append(invalid, a.Address)
			continue
		}
		ips = append(ips, ip.Unmap())
	}
	return ips, invalid
}
