package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"brink/agent/kubelet"
	"brink/agent/ledger"
	"brink/internal/atomicfile"
	"brink/internal/lifecycle"
	"brink/network"
	"brink/network/iprange"
)

// podNetwork is the node's pod network, which begins when the cluster has given the
// node a range of addresses.
type podNetwork struct {
	mu      sync.Mutex
	ranges  []netip.Prefix   // of the node's pods, nil until they are known
	network *network.Network // nil until it runs
}

func (p *podNetwork) begin(ranges []netip.Prefix, pods *network.Network) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ranges, p.network = ranges, pods
}

// podCIDRs are the ranges of the node's pods, nil until they are known.
func (p *podNetwork) podCIDRs() []netip.Prefix {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ranges
}

func (p *podNetwork) warnings() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.network == nil {
		return nil
	}
	return p.network.Warnings()
}

// checkRanges returns an error when the Node's range is not the one from which the pods
// have their addresses. That happens when a Node is deleted while its machine is offline:
// the next Node of the name may be given another range. A node beside a server is never
// offline.
func (p *podNetwork) checkRanges(node *corev1.Node) error {
	uses := p.podCIDRs()
	if node == nil || uses == nil || len(node.Spec.PodCIDRs) == 0 {
		return nil
	}
	if has, err := parsePrefixes(node.Spec.PodCIDRs); err != nil || !slices.Equal(has, uses) {
		return fmt.Errorf("the cluster has given node %s the range %v for its pods, which use %v: start brink again", node.Name, node.Spec.PodCIDRs, uses)
	}
	return nil
}

// runNetwork waits for the address range that the cluster gives this node,
// then keeps the pod network up.
func (n *connected) runNetwork(ctx context.Context, ready func()) error {
	client, err := n.nodeClient()
	if err != nil {
		return err
	}
	ranges, node, err := n.findRanges(ctx, client)
	if err != nil {
		return err
	}
	underlay := n.cfg.Addresses.IPs()
	pods := network.New(n.networkConfig(ranges, underlay))
	n.network.begin(ranges, pods)
	// Before the network starts: peers that do not know the present backend of this node
	// send their packets by the former one.
	n.correctNode(ctx, client, node)
	// As itself, a node may only read its own Node until the server allows more. The
	// service proxy's rights are there from the start.
	peers, err := kubernetes.NewForConfig(n.access.proxyAPI())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var followers sync.WaitGroup
	defer followers.Wait()
	defer cancel()
	followers.Go(func() { n.followPeers(ctx, peers, pods) })
	if n.cfg.Addresses.MayChange() {
		followers.Go(func() { n.followAddresses(ctx, client, pods, underlay) })
	}
	return pods.Component().Run(ctx, ready)
}

func (n *connected) networkConfig(ranges []netip.Prefix, underlay []netip.Addr) network.Config {
	l := n.cfg.Layout
	return network.Config{
		ClusterCIDRs: n.access.ClusterCIDRs,
		NodeCIDRs:    ranges,
		ServiceCIDRs: n.access.ServiceCIDRs,
		CNIConfDir:   l.CNIConf(),
		CNIStateDir:  l.CNIState(),
		Backend:      n.access.Backend,
		Underlay:     underlay,
		Changing: func(name, to string) error {
			warnUnrecorded(n.ledgerLog, ledger.RecordSettings(l, map[string]string{name: to}))
			return nil
		},
	}
}

// findRanges returns the ranges of this node's pods and the Node that says so. There is
// no Node when no server answers and the ranges are those of the last start.
func (n *connected) findRanges(ctx context.Context, client kubernetes.Interface) ([]netip.Prefix, *corev1.Node, error) {
	if n.offline {
		if ranges := n.rememberedRanges(); len(ranges) > 0 {
			return ranges, nil, nil
		}
	}
	node, err := kubelet.WaitNode(ctx, client, n.cfg.NodeName, func(n *corev1.Node) bool { return len(n.Spec.PodCIDRs) > 0 })
	if err != nil {
		return nil, nil, fmt.Errorf("waiting for the node's address range: %w", err)
	}
	ranges, err := parsePrefixes(node.Spec.PodCIDRs)
	if err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", n.cfg.NodeName, err)
	}
	if n.cfg.Join != nil {
		n.rememberRanges(ctx, ranges)
	}
	return ranges, node, nil
}

// rememberRanges writes the ranges down for a start without a server. The node works
// without the file, so an error is only logged.
func (n *connected) rememberRanges(ctx context.Context, ranges []netip.Prefix) {
	text, err := json.Marshal(ranges)
	if err == nil {
		err = atomicfile.Keep(n.cfg.Layout.PodRanges(), text, 0o600)
	}
	if err != nil {
		lifecycle.Logger(ctx).Warn("remembering the addresses of this node's pods", "error", err)
	}
}

// rememberedRanges returns the ranges of the last start, or none when the file does not
// help, such as one from when the cluster had other addresses.
func (n *connected) rememberedRanges() []netip.Prefix {
	text, err := os.ReadFile(n.cfg.Layout.PodRanges())
	var ranges []netip.Prefix
	if err != nil || json.Unmarshal(text, &ranges) != nil {
		return nil
	}
	isForeign := func(r netip.Prefix) bool { return !iprange.Within(r, n.access.ClusterCIDRs) }
	if slices.ContainsFunc(ranges, isForeign) {
		return nil
	}
	return ranges
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var errs []error
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		errs = append(errs, err)
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}
