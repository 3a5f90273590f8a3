package tunnel

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// holder returns the node that has an address, "" when none does and the address is dialed
// directly.
func (s *Server) holder(ip netip.Addr, port string) (string, error) {
	s.mu.Lock()
	nodes := s.nodes
	s.mu.Unlock()
	if nodes == nil {
		return "", nil
	}
	list, err := nodes.List(labels.Everything())
	if err != nil {
		return "", err
	}
	return s.choose(list, ip, port)
}

// choose returns which of the nodes has ip. Addresses of pods are unique, because the
// cluster gives each node its range. Addresses of nodes are claims of the nodes, and
// believing them would hand requests, and what is in them, to any node that claims the
// address of a machine outside the cluster. So:
//
//   - The server's own addresses are its own.
//   - A node has the address from which its tunnel comes.
//   - Any other address is dialed directly, with one exception: a node claims the address,
//     this server cannot reach it there, and the cluster itself has put pods into the node's
//     host network, see behindRouters. Sites behind NAT number their machines alike, so there
//     may be several such nodes. Then it is the node with a pod that declares the port.
func (s *Server) choose(nodes []*corev1.Node, ip netip.Addr, port string) (string, error) {
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
	case len(proven) == 1:
		return proven[0], nil
	case len(proven) == 0:
		if claim = s.behindRouters(claim, ip, port); len(claim) == 0 {
			return "", nil
		}
	}
	if len(claim) == 1 {
		return claim[0], nil
	}
	return "", fmt.Errorf("nodes %s all say that they have this address, and their tunnels do not prove whose it is: kubectl delete node removes one that is gone", strings.Join(claim, ", "))
}

// behindRouters returns those of the nodes that have ip behind a router: the nodes with a pod
// that declares the port or, if there are none, all with a pod in the host network.
func (s *Server) behindRouters(nodes []string, ip netip.Addr, port string) []string {
	if !ip.IsPrivate() || s.cfg.InNetwork != nil && s.cfg.InNetwork(ip) {
		return nil // unique in the world, or a neighbour of this server
	}
	var some, exact []string
	for _, name := range nodes {
		has, hasPort := s.hostPods(name, port)
		switch {
		case hasPort:
			exact = append(exact, name)
		case has && s.isOutside(name):
			some = append(some, name)
		}
	}
	if len(exact) > 0 {
		return exact
	}
	return some
}

// isOutside reports whether all tunnels of a node come from outside this server's network.
// A node inside needs better evidence for an address from which it does not come: it may be
// the address of any machine that the server reaches by itself.
func (s *Server) isOutside(node string) bool {
	from := s.Sources(node)
	isInside := func(a netip.Addr) bool { return a.IsPrivate() || slices.Contains(s.cfg.OwnIPs, a) }
	return len(from) > 0 && !slices.ContainsFunc(from, isInside)
}

// hostPods reports whether the cluster has pods in the host network of a node, and whether
// one of them declares the port. Mirror pods do not count: the node itself makes them.
func (s *Server) hostPods(node, port string) (has, hasPort bool) {
	s.mu.Lock()
	pods := s.pods
	s.mu.Unlock()
	if pods == nil {
		return false, false
	}
	list, err := pods.List(labels.Everything())
	if err != nil {
		return false, false
	}
	for _, pod := range list {
		if pod.Spec.NodeName != node || !pod.Spec.HostNetwork || isOver(pod) || pod.Annotations[corev1.MirrorPodAnnotationKey] != "" {
			continue
		}
		has = true
		hasPort = hasPort || declares(pod, port)
	}
	return has, hasPort
}

func isOver(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func declares(pod *corev1.Pod, port string) bool {
	containers := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, c) // a sidecar
		}
	}
	isIt := func(p corev1.ContainerPort) bool { return strconv.Itoa(int(p.ContainerPort)) == port }
	return slices.ContainsFunc(containers, func(c corev1.Container) bool { return slices.ContainsFunc(c.Ports, isIt) })
}

// Holder returns a node other than except whose tunnel comes from ip and whose status has
// ip, "" when there is none.
func (s *Server) Holder(ip netip.Addr, except string) string {
	s.mu.Lock()
	var speakers []string
	for name, sessions := range s.sessions {
		if name != except && slices.ContainsFunc(sessions, func(o *session) bool { return o.from == ip && o.usable() }) {
			speakers = append(speakers, name)
		}
	}
	s.mu.Unlock()
	slices.Sort(speakers)
	for _, name := range speakers {
		if node := s.node(name); node != nil && hasAddress(node, ip) {
			return name
		}
	}
	return ""
}
