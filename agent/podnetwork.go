package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"brink/agent/kubelet"
	"brink/agent/ledger"
	"brink/internal/atomicfile"
	"brink/network"
	"brink/network/iprange"
)

// runNetwork waits for the address range that the cluster gives this node,
// then keeps the pod network up.
func (a *Agent) runNetwork(ctx context.Context, ready func()) error {
	client, err := kubernetes.NewForConfig(a.nodeAPI())
	if err != nil {
		return err
	}
	ranges, node, err := a.findRanges(ctx, client)
	if err != nil {
		return err
	}
	a.ranges.Store(&ranges)
	// Before anything of it: peers that do not know how this node is reached now
	// send their packets the old way.
	a.keepPlace(ctx, client, node)
	l := a.cfg.Layout
	pods := network.New(network.Config{
		ClusterCIDRs: a.access.ClusterCIDRs,
		NodeCIDRs:    ranges,
		ServiceCIDRs: a.access.ServiceCIDRs,
		CNIConfDir:   l.CNIConf(),
		CNIStateDir:  l.CNIState(),
		Backend:      a.access.Backend,
		Underlay:     a.cfg.NodeIPs,
		Changing: func(name, to string) error {
			a.unlisted(ledger.RecordSettings(l, map[string]string{name: to}))
			return nil
		},
	})
	a.network.Store(pods)
	// A node may read nobody but itself until the server has said otherwise; the
	// service proxy's rights are there from the start.
	peers, err := kubernetes.NewForConfig(a.access.API("system:kube-proxy"))
	if err != nil {
		return err
	}
	go a.followPeers(ctx, peers, pods)
	if a.cfg.FindIPs != nil {
		go a.followPlace(ctx, client, pods)
	}
	return pods.Component().Run(ctx, ready)
}

// findRanges returns the ranges of this node's pods and, unless they are those of
// the last time because no server answers, the Node that says so.
func (a *Agent) findRanges(ctx context.Context, client kubernetes.Interface) ([]netip.Prefix, *corev1.Node, error) {
	if a.offline {
		if ranges := a.rememberedRanges(); len(ranges) > 0 {
			return ranges, nil, nil
		}
	}
	node, err := kubelet.WaitNode(ctx, client, a.cfg.NodeName, func(n *corev1.Node) bool { return len(n.Spec.PodCIDRs) > 0 })
	if err != nil {
		return nil, nil, fmt.Errorf("waiting for the node's address range: %w", err)
	}
	ranges, err := parsePrefixes(node.Spec.PodCIDRs)
	if err != nil {
		return nil, nil, fmt.Errorf("node %s: %w", a.cfg.NodeName, err)
	}
	if a.cfg.Join != nil {
		a.rememberRanges(ranges)
	}
	return ranges, node, nil
}

// rememberRanges writes them down. The file only helps, as that of the settings.
func (a *Agent) rememberRanges(ranges []netip.Prefix) {
	text, err := json.Marshal(ranges)
	if err == nil {
		err = atomicfile.Keep(a.cfg.Layout.PodRanges(), text, 0o600)
	}
	if err != nil {
		slog.Warn("remembering the addresses of this node's pods", "component", "network", "error", err)
	}
}

// rememberedRanges are none when the file does not help, as one of before the
// cluster had other addresses.
func (a *Agent) rememberedRanges() []netip.Prefix {
	text, err := os.ReadFile(a.cfg.Layout.PodRanges())
	var ranges []netip.Prefix
	if err != nil || json.Unmarshal(text, &ranges) != nil {
		return nil
	}
	isForeign := func(r netip.Prefix) bool { return !iprange.Within(r, a.access.ClusterCIDRs) }
	if slices.ContainsFunc(ranges, isForeign) {
		return nil
	}
	return ranges
}

// checkRanges wants the Node's range to be the one that pods get their addresses
// from: one that was deleted while its machine heard of nothing may be given another.
// Beside a server nothing goes unheard.
func (a *Agent) checkRanges(node *corev1.Node) error {
	uses := a.ranges.Load()
	if a.cfg.Join == nil || node == nil || uses == nil || len(node.Spec.PodCIDRs) == 0 {
		return nil
	}
	if has, err := parsePrefixes(node.Spec.PodCIDRs); err != nil || !slices.Equal(has, *uses) {
		return fmt.Errorf("the cluster has given node %s the range %v for its pods, which use %v: start brink again", node.Name, node.Spec.PodCIDRs, *uses)
	}
	return nil
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
