package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"brink/internal/once"
	"brink/internal/wire/nodekey"
	"brink/network/nodeaddr"
)

// backendAnnotation of a Node says by which backend its pods are reached, for
// its peers: while a cluster is switched from one to another they differ.
const backendAnnotation = "brink.io/network-backend"

// nodeStatus is the part of the Node that the agent writes: its addresses, how its pods
// are reached, and which machine it is.
type nodeStatus struct {
	name        string
	internal    *nodeaddr.Watcher
	external    []netip.Addr
	annotations map[string]string
	machine     nodekey.Public // "" beside a server
	logged      once.Reporter
}

func newNodeStatus(cfg Config, access Access) *nodeStatus {
	s := &nodeStatus{name: cfg.NodeName, internal: cfg.Addresses, external: cfg.ExternalIPs, machine: access.Machine}
	s.annotations = map[string]string{backendAnnotation: string(access.Backend)}
	if access.Machine != "" {
		s.annotations[nodekey.NodeAnnotation] = string(access.Machine)
	}
	return s
}

// addresses returns the addresses of the Node, in the form of the API.
func (s *nodeStatus) addresses() []corev1.NodeAddress {
	var out []corev1.NodeAddress
	for _, ip := range s.internal.IPs() {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	for _, ip := range s.external {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: ip.String()})
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: s.name})
}

// complete writes the status into a Node that is about to be created.
func (s *nodeStatus) complete(node *corev1.Node) {
	node.Status.Addresses = s.addresses()
	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}
	maps.Copy(node.Annotations, s.annotations)
}

// correct patches a Node whose addresses or annotations are outdated, because an earlier
// start has written them or the addresses have changed since.
func (s *nodeStatus) correct(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	nodes := client.CoreV1().Nodes()
	missing := maps.Clone(s.annotations)
	maps.DeleteFunc(missing, func(key, value string) bool { return node.Annotations[key] == value })
	if len(missing) > 0 {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": missing}})
		if err != nil {
			return err
		}
		if _, err := nodes.Patch(ctx, s.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("annotating the node: %w", err)
		}
	}
	want := s.addresses()
	if slices.Equal(node.Status.Addresses, want) {
		return nil
	}
	// A merge patch replaces lists; a strategic one would merge addresses by type.
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"addresses": want}})
	if err != nil {
		return err
	}
	if _, err := nodes.Patch(ctx, s.name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("announcing the node's addresses: %w", err)
	}
	return nil
}

// warn logs an error about the Node, the same one only once. nil says that it is over.
func (s *nodeStatus) warn(err error) {
	if err == nil {
		s.logged.Cleared(s.name)
	} else if s.logged.Changed(s.name, err.Error()) {
		slog.Warn(err.Error(), "component", Node)
	}
}

// checkOwner returns an error when the Node belongs to another machine. The name may
// have been given to one that joined after the Node was deleted, while this machine was
// away or did not hear of it, and this machine's certificate is good for a year. Two
// machines that are one node would overwrite each other.
func (s *nodeStatus) checkOwner(node *corev1.Node) error {
	if node == nil || s.machine == "" {
		return nil
	}
	owner := nodekey.Public(node.Annotations[nodekey.NodeAnnotation])
	if owner == "" || s.machine.Is(owner) {
		return nil
	}
	return fmt.Errorf("node name %q belongs to another machine now: give this one another --node-name and a token, or remove that node with kubectl delete node %s", node.Name, node.Name)
}
