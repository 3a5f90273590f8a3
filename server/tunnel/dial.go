package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"

	"brink/internal/tunnelwire"
)

// directTimeout bounds an attempt without a tunnel: a packet that a firewall
// drops is answered by nobody.
const directTimeout = 10 * time.Second

// streamTimeout is for a node that answers pings and nothing else. The agent's own
// limit for a target is less.
const streamTimeout = 15 * time.Second

// UseNodes says where nodes are looked up. Until then none is known, and only
// nodes with a tunnel are reached by name.
func (s *Server) UseNodes(nodes corelisters.NodeLister) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes = nodes
}

// DialKubelet connects to the kubelet of a node: address is its name and the
// kubelet's port. The way is its tunnel; else, and for the node in this process,
// its internal address. Names, because two sites may use the same private
// addresses, and because a kubelet's certificate always has its node's name.
func (s *Server) DialKubelet(ctx context.Context, network, address string) (net.Conn, error) {
	name, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return s.DialPod(ctx, network, address) // --kubelet-preferred-address-types has another order
	}
	node := s.node(name)
	if node == nil && !s.Has(name) {
		return direct(ctx, network, []string{address}) // a proxy between here and the kubelets
	}
	var addresses []string
	for _, ip := range internalIPs(node) {
		addresses = append(addresses, net.JoinHostPort(ip.String(), port))
	}
	return s.reach(ctx, route{node: name, network: network, target: tunnelwire.Kubelet, direct: addresses})
}

// DialPod connects to what address names in the cluster: a pod by its address; a
// node, and with it its pods in the host's network, by address or name; anything
// else directly.
func (s *Server) DialPod(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	name, ip, err := s.holder(host)
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", address, err)
	}
	if name == "" {
		return direct(ctx, network, []string{address})
	}
	target := net.JoinHostPort(ip.String(), port)
	return s.reach(ctx, route{node: name, network: network, target: target, direct: []string{target}})
}

// route is how something on a node can be reached.
type route struct {
	node    string
	network string
	target  string   // through the node's tunnel
	direct  []string // without
}

// reach tries the node's tunnel, waits a moment for one that is not there, and
// then dials directly.
func (s *Server) reach(ctx context.Context, to route) (net.Conn, error) {
	if to.node == s.cfg.OwnNode {
		conn, err := direct(ctx, to.network, to.direct)
		if err != nil {
			return nil, fmt.Errorf("reaching node %s: %w", to.node, err)
		}
		return conn, nil
	}
	conn, tunnelErr := s.through(ctx, to)
	if tunnelErr == nil {
		return conn, nil
	}
	if target := (*TargetError)(nil); errors.As(tunnelErr, &target) || ctx.Err() != nil {
		return nil, fmt.Errorf("reaching node %s by its tunnel: %w", to.node, tunnelErr)
	}
	conn, err := direct(ctx, to.network, to.direct)
	if err != nil {
		return nil, fmt.Errorf("reaching node %s: %w, and directly: %w", to.node, tunnelErr, err)
	}
	return conn, nil
}

// through dials by the node's tunnel, and once more by the next one when it
// breaks meanwhile.
func (s *Server) through(ctx context.Context, to route) (net.Conn, error) {
	patient, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	var err error
	for range 2 {
		if err := s.await(patient, to.node); err != nil {
			return nil, err
		}
		var conn net.Conn
		// The API server's transports dial without the deadline of who asked.
		bounded, end := context.WithTimeout(ctx, streamTimeout)
		conn, err = s.Dial(bounded, to.node, to.network, to.target)
		end()
		if err == nil {
			return conn, nil
		}
		if target := (*TargetError)(nil); errors.As(err, &target) || ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// direct dials addresses one after the other.
func direct(ctx context.Context, network string, addresses []string) (net.Conn, error) {
	err := errors.New("its address is not known")
	dialer := net.Dialer{Timeout: directTimeout}
	for _, address := range addresses {
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, network, address); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// node is nil when it is not known.
func (s *Server) node(name string) *corev1.Node {
	s.mu.Lock()
	nodes := s.nodes
	s.mu.Unlock()
	if nodes == nil {
		return nil
	}
	node, err := nodes.Get(name)
	if err != nil {
		return nil
	}
	return node
}

// holder returns the node that has a host, which is an address or a node's name,
// and the address. No node has it when the name is empty.
func (s *Server) holder(host string) (string, netip.Addr, error) {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		ips := internalIPs(s.node(host))
		if len(ips) == 0 {
			return "", netip.Addr{}, nil
		}
		return host, ips[0], nil
	}
	ip = ip.Unmap()
	s.mu.Lock()
	nodes := s.nodes
	s.mu.Unlock()
	if nodes == nil {
		return "", ip, nil
	}
	list, err := nodes.List(labels.Everything())
	if err != nil {
		return "", ip, err
	}
	name, err := s.choose(list, ip)
	return name, ip, err
}

// choose returns which of the nodes has ip, "" when none does. The addresses of
// pods are unique, the cluster gives each node its range. Those of nodes are what
// they say, and sites behind NAT number their machines alike: of several the one
// in this process has it, else the one whose tunnel comes from there. A guess
// would hand requests, and what they show, to whoever claims another's address.
func (s *Server) choose(nodes []*corev1.Node, ip netip.Addr) (string, error) {
	var claim, proven []string
	for _, node := range nodes {
		switch {
		case s.isPod(ip) && hasPod(node, ip):
			return node.Name, nil
		case !hasAddress(node, ip):
			continue
		case node.Name == s.cfg.OwnNode:
			return node.Name, nil
		case slices.Contains(s.Sources(node.Name), ip):
			proven = append(proven, node.Name)
		}
		claim = append(claim, node.Name)
	}
	switch {
	case len(claim) == 0, slices.Contains(s.cfg.OwnIPs, ip):
		return "", nil
	case len(claim) == 1:
		return claim[0], nil
	case len(proven) == 1:
		return proven[0], nil
	}
	return "", fmt.Errorf("nodes %s all say that they have this address, and by their tunnels it cannot be told whose it is: kubectl delete node removes one that is gone", strings.Join(claim, ", "))
}

// isPod keeps out what a node claims as its range that is none of the cluster's.
func (s *Server) isPod(ip netip.Addr) bool {
	isIn := func(p netip.Prefix) bool { return p.Contains(ip) }
	return len(s.cfg.ClusterCIDRs) == 0 || slices.ContainsFunc(s.cfg.ClusterCIDRs, isIn)
}

func hasPod(node *corev1.Node, ip netip.Addr) bool {
	for _, cidr := range node.Spec.PodCIDRs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil && prefix.Contains(ip) {
			return true
		}
	}
	return false
}

func hasAddress(node *corev1.Node, ip netip.Addr) bool {
	for _, own := range internalIPs(node) {
		if own == ip {
			return true
		}
	}
	return false
}

func internalIPs(node *corev1.Node) []netip.Addr {
	if node == nil {
		return nil
	}
	var out []netip.Addr
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(address.Address); err == nil {
			out = append(out, ip.Unmap())
		}
	}
	return out
}
