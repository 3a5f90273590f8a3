package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"brink/internal/componentargs"
	"brink/server/controlplane"
	"brink/server/pki"
)

// runClusterSetup makes sure that the objects exist without which brink's own
// parts have no rights. They are made once and then belong to the user: one
// who changes them is not overruled.
func (s *Server) runClusterSetup(ctx context.Context, ready func()) error {
	client, err := kubernetes.NewForConfig(s.ClientConfig("system:apiserver", "system:masters"))
	if err != nil {
		return err
	}
	err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, kubeletAPIBinding(), metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err), nil
	})
	if err != nil {
		return fmt.Errorf("creating ClusterRoleBinding %s: %w", kubeletAPIBinding().Name, err)
	}
	ready()
	s.labelOwnNode(ctx, client)
	<-ctx.Done()
	return nil
}

// labelOwnNode gives the server's own node its role once the node exists. A
// kubelet may not do that for itself: NodeRestriction keeps such labels from
// it. Without an agent on this machine there is no such node, and nothing is
// found for as long as the server runs.
func (s *Server) labelOwnNode(ctx context.Context, client kubernetes.Interface) {
	patch := []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":"true"}}}`)
	_ = wait.PollUntilContextTimeout(ctx, 500*time.Millisecond, 5*time.Minute, true, func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Nodes().Patch(ctx, s.cfg.NodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		return err == nil, nil
	})
}

// runFirstNode gives the server's own node its pod range when it is the first
// node of the cluster. The node IPAM controller would give it the very same one,
// but only after the API server has made all RBAC roles, a second later, and
// until then no pod could be attached. Later nodes, and all later starts, are the
// controller's alone.
func (s *Server) runFirstNode(ctx context.Context, ready func()) error {
	ready()
	if slices.ContainsFunc(s.cfg.ControllerArgs, decidesRanges) {
		<-ctx.Done() // the controller cuts ranges in its own way
		return nil
	}
	client, err := kubernetes.NewForConfig(s.ClientConfig("system:apiserver", "system:masters"))
	if err != nil {
		return err
	}
	patch := firstRangePatch(s.cfg.ClusterCIDRs)
	_ = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, firstNodePatience, true, func(ctx context.Context) (bool, error) {
		nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil || len(nodes.Items) == 0 {
			return false, nil
		}
		first := nodes.Items[0]
		if len(nodes.Items) > 1 || first.Name != s.cfg.NodeName || len(first.Spec.PodCIDRs) > 0 {
			return true, nil
		}
		_, err = client.CoreV1().Nodes().Patch(ctx, first.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		return err == nil, nil
	})
	<-ctx.Done()
	return nil
}

// decidesRanges tells the flags of the controllers by which a user takes the
// nodes' ranges into their own hands.
func decidesRanges(arg string) bool {
	name := componentargs.Name(arg)
	return strings.HasPrefix(name, "node-cidr-mask-size") || slices.Contains([]string{"cluster-cidr", "allocate-node-cidrs", "controllers"}, name)
}

// firstNodePatience is long past the moment when the controller takes over.
const firstNodePatience = 10 * time.Second

// firstRangePatch sets the first node-sized range of each pod network.
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

// kubeletAPIBinding lets the API server fetch logs and run commands through
// kubelets, and nothing else.
func kubeletAPIBinding() *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "brink:kube-apiserver-to-kubelet"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:kubelet-api-admin"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: pki.KubeletClientUser}},
	}
}
