package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"brink/internal/wire/nodestatus"
	"brink/internal/wire/tunnelwire"
)

// directTimeout bounds a connection attempt without a tunnel: nothing answers a packet that
// a firewall drops.
const directTimeout = 10 * time.Second

// streamTimeout bounds opening a stream to a node that answers pings and nothing else. The
// agent's own limit for a target is lower.
const streamTimeout = 15 * time.Second

// Use sets where nodes and pods are looked up. Before it is called none is known, and only
// nodes with a tunnel are reached by name.
func (s *Server) Use(nodes corelisters.NodeLister, pods corelisters.PodLister) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes, s.pods = nodes, pods
}

// DialKubelet connects to the kubelet of a node: address is the node's name and the
// kubelet's port. It dials through the node's tunnel; the node in this process, and a node
// that is not an agent of brink, it dials by the internal address. Nodes are addressed by
// name because two sites may use the same private addresses, and because a kubelet's
// certificate always has the node's name.
//
// An agent is reached by its tunnel or not at all. The other end of a tunnel has a
// certificate that is valid now; at an address that the node has claimed there may be an
// earlier machine with its old serving certificate.
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
	for _, ip := range s.directIPs(name, node) {
		addresses = append(addresses, net.JoinHostPort(ip.String(), port))
	}
	return s.reach(ctx, route{node: name, network: network, target: tunnelwire.Kubelet, direct: addresses})
}

// directIPs returns the addresses by which a node is dialed without a tunnel. An agent has
// none.
func (s *Server) directIPs(name string, node *corev1.Node) []netip.Addr {
	if name != s.cfg.OwnNode && s.cfg.IsAgent != nil && s.cfg.IsAgent(name) {
		return nil
	}
	return nodestatus.InternalIPs(node)
}

// ownService is the host that the API server dials when a webhook or an aggregated API is
// at the Service kubernetes, which is itself. No DNS resolves it here.
const ownService = "kubernetes.default.svc"

// DialPod connects to an address in the cluster: a pod by its IP address; a node, and with
// it the pods in its host network, by IP address or name; the API server by the name of its
// Service; anything else directly.
func (s *Server) DialPod(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := splitHostPort(address)
	if err != nil {
		return nil, err
	}
	if host == ownService && s.cfg.OwnAPI.IsValid() {
		return direct(ctx, network, []string{s.cfg.OwnAPI.String()})
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return s.dialIP(ctx, network, ip.Unmap(), port)
	}
	node := s.node(host)
	ips := nodestatus.InternalIPs(node)
	if len(ips) == 0 {
		return direct(ctx, network, []string{address})
	}
	to := route{node: host, network: network, target: net.JoinHostPort(ips[0].String(), port)}
	if len(s.directIPs(host, node)) > 0 {
		to.direct = []string{to.target}
	}
	return s.reach(ctx, to)
}

// splitHostPort takes ownService without a port for one of HTTPS.
func splitHostPort(address string) (host, port string, err error) {
	if address == ownService {
		return address, "443", nil
	}
	return net.SplitHostPort(address)
}

// dialIP connects to an IP address, through the tunnel of the node that has it.
func (s *Server) dialIP(ctx context.Context, network string, ip netip.Addr, port string) (net.Conn, error) {
	target := net.JoinHostPort(ip.String(), port)
	name, err := s.holder(ip, port)
	if err != nil {
		return nil, fmt.Errorf("dialing %s: %w", target, err)
	}
	if name == "" {
		return direct(ctx, network, []string{target})
	}
	return s.reach(ctx, route{node: name, network: network, target: target, direct: []string{target}})
}

// route is how a target on a node can be reached.
type route struct {
	node    string
	network string
	target  string   // what to ask for through the node's tunnel
	direct  []string // addresses to dial without the tunnel
}

// reach dials through the node's tunnel, for which it waits a moment if there is none, and
// then directly.
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
	if len(to.direct) == 0 {
		return nil, fmt.Errorf("reaching node %s: %w", to.node, tunnelErr)
	}
	conn, err := direct(ctx, to.network, to.direct)
	if err != nil {
		return nil, fmt.Errorf("reaching node %s: %w, and directly: %w", to.node, tunnelErr, err)
	}
	return conn, nil
}

// through dials through the node's tunnel, and once more through the next one if that
// breaks.
func (s *Server) through(ctx context.Context, to route) (net.Conn, error) {
	patient, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	var err error
	for range 2 {
		if err := s.await(patient, to.node); err != nil {
			return nil, err
		}
		var conn net.Conn
		// The API server's transports dial without the deadline of the request.
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

// direct dials the addresses one after the other.
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

// node looks up a node, nil when it is not known.
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

// isPod reports whether ip is in a range of the cluster's pods, whatever range a node has.
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
	return slices.Contains(nodestatus.InternalIPs(node), ip)
}
