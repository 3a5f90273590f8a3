package overlay

import (
	"fmt"
	"net/netip"
	"slices"
)

// Backend is how pods' packets travel between nodes.
type Backend string

const (
	// VXLAN wraps them in UDP and works wherever nodes reach each other.
	VXLAN Backend = "vxlan"
	// HostGW routes them as they are, which needs all nodes on one segment: one
	// Ethernet, without a router in between.
	HostGW Backend = "host-gw"
	// None leaves them to somebody else.
	None Backend = "none"
)

// ParseBackend reads a backend's name as users write it.
func ParseBackend(name string) (Backend, error) {
	switch b := Backend(name); b {
	case VXLAN, HostGW, None:
		return b, nil
	}
	return "", fmt.Errorf("network backend %q is none of %s, %s, %s", name, VXLAN, HostGW, None)
}

// Peer is another node of the cluster.
type Peer struct {
	// Name is what warnings call it.
	Name string
	// CIDRs are its pods' prefixes, at most one of each address family.
	CIDRs []netip.Prefix
	// Underlay are the addresses by which nodes reach it, at most one of each
	// family, the preferred one first.
	Underlay []netip.Addr
	// Backend is the one that it announces; empty counts as this node's own.
	Backend Backend
}

func (p Peer) equal(q Peer) bool {
	return p.Name == q.Name && p.Backend == q.Backend && slices.Equal(p.CIDRs, q.CIDRs) && slices.Equal(p.Underlay, q.Underlay)
}

// between is the backend by which two nodes reach each other. While a cluster is
// switched from one backend to another, node by node, each node must receive what the
// other sends, and every node can do VXLAN. Nobody routes to or from a node with
// None.
func between(own, peer Backend) Backend {
	switch {
	case own == None || peer == None:
		return None
	case own == HostGW && (peer == HostGW || peer == ""):
		return HostGW
	}
	return VXLAN
}
