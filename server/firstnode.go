package server

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"brink/internal/componentargs"
	"brink/server/controlplane"
)

// runFirstNode gives the server's own node its pod range when it is the first node of the
// cluster. The node IPAM controller would give it the very same range, but only after the
// API server has made all RBAC roles, a second later, and until then no pod could be attached
// to the network. It leaves later nodes, and all later starts, to the controller.
func (s *Server) runFirstNode(ctx context.Context, ready func()) error {
	ready()
	if !s.cfg.HasAgent || slices.ContainsFunc(s.cfg.ControllerArgs, decidesRanges) {
		<-ctx.Done() // there is no such node, or the user decides on the ranges
		return nil
	}
	client, err := s.ownClient()
	if err != nil {
		return err
	}
	nodes := client.CoreV1().Nodes()
	answers := func(ctx context.Context) (bool, error) { // takes long on a board
		_, err := nodes.List(ctx, metav1.ListOptions{})
		return err == nil, nil
	}
	give := func(ctx context.Context) (bool, error) { return s.giveFirstRange(ctx, nodes) }
	if wait.PollUntilContextCancel(ctx, firstNodeInterval, true, answers) == nil {
		_ = wait.PollUntilContextTimeout(ctx, firstNodeInterval, firstNodePatience, true, give)
	}
	<-ctx.Done()
	return nil
}

// giveFirstRange gives this server's node its range if it is the only node. It is done when
// the cluster has nodes and nothing is left to give.
func (s *Server) giveFirstRange(ctx context.Context, nodes typedcorev1.NodeInterface) (done bool, _ error) {
	list, err := nodes.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		return false, nil
	}
	first := list.Items[0]
	if len(list.Items) > 1 || first.Name != s.cfg.NodeName || len(first.Spec.PodCIDRs) > 0 {
		return true, nil
	}
	_, err = nodes.Patch(ctx, first.Name, types.StrategicMergePatchType, firstRangePatch(s.cfg.ClusterCIDRs), metav1.PatchOptions{})
	return err == nil, nil
}

// decidesRanges reports whether a flag of the controllers is one by which the user decides on
// the nodes' ranges.
func decidesRanges(arg string) bool {
	name := componentargs.Name(arg)
	return strings.HasPrefix(name, "node-cidr-mask-size") || slices.Contains([]string{"allocate-node-cidrs", "controllers"}, name)
}

const (
	firstNodeInterval = 20 * time.Millisecond
	// firstNodePatience counts from the API server's first answer. The controller takes
	// over long before it ends.
	firstNodePatience = 10 * time.Second
)

// firstRangePatch returns the patch that gives a node the first node-sized range of each pod
// network.
func firstRangePatch(pods []netip.Prefix) []byte {
	var ranges []string
	for _, p := range pods {
		ranges = append(ranges, netip.PrefixFrom(p.Addr(), controlplane.NodeMask(p)).String())
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"podCIDR": ranges[0], "podCIDRs": ranges}})
	if err != nil {
		panic(err) // strings always marshal
	}
	return patch
}
