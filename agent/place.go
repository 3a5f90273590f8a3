package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"brink/agent/kubelet"
	"brink/internal/wire/nodekey"
	"brink/network"
)

// backendAnnotation of a Node says by which backend its pods are reached, for
// its peers: while a cluster is switched from one to another they differ.
const backendAnnotation = "brink.io/network-backend"

// placeInterval is how often a node looks whether its addresses have changed.
const placeInterval = 5 * time.Second

// refusedInterval is how often one that the cluster refuses is offered again.
const refusedInterval = time.Minute

// place is what a Node says about where it is and how its pods are reached.
type place struct {
	name     string
	external []netip.Addr
	says     map[string]string // annotations

	mu   sync.Mutex
	ips  []netip.Addr
	said string // the last complaint, "" when there is none
}

func newPlace(name string, ips, external []netip.Addr, backend network.Backend) *place {
	return &place{name: name, ips: ips, external: external, says: map[string]string{backendAnnotation: string(backend)}}
}

// internal are the node's own addresses now.
func (p *place) internal() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ips)
}

// addresses are those of the Node, in its own words.
func (p *place) addresses() []corev1.NodeAddress {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []corev1.NodeAddress
	for _, ip := range p.ips {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	for _, ip := range p.external {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: ip.String()})
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: p.name})
}

// complete writes it into a Node that is going to be made.
func (p *place) complete(node *corev1.Node) {
	node.Status.Addresses = p.addresses()
	if node.Annotations == nil {
		node.Annotations = map[string]string{}
	}
	maps.Copy(node.Annotations, p.says)
}

// keep corrects a Node that says something else: one of an earlier start, or of
// before the node has moved.
func (p *place) keep(ctx context.Context, client kubernetes.Interface, node *corev1.Node) error {
	nodes := client.CoreV1().Nodes()
	missing := maps.Clone(p.says)
	maps.DeleteFunc(missing, func(key, value string) bool { return node.Annotations[key] == value })
	if len(missing) > 0 {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": missing}})
		if err != nil {
			return err
		}
		if _, err := nodes.Patch(ctx, p.name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("annotating the node: %w", err)
		}
	}
	want := p.addresses()
	if slices.Equal(node.Status.Addresses, want) {
		return nil
	}
	// A merge patch replaces lists; a strategic one would merge addresses by type.
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"addresses": want}})
	if err != nil {
		return err
	}
	if _, err := nodes.Patch(ctx, p.name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("announcing the node's addresses: %w", err)
	}
	return nil
}

// complain tells trouble with the Node when it is news; nil ends it.
func (p *place) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	p.mu.Lock()
	isNews := text != p.said
	p.said = text
	p.mu.Unlock()
	if isNews && text != "" {
		slog.Warn(text, "component", "node")
	}
}

// checkOwner wants the Node to be this machine's. Its name may have been given to
// another one that has joined: after the Node was deleted, while this machine was
// away or knew nothing of it, and with a certificate that is good for a year. Two
// machines that are one node would overwrite each other.
func (a *Agent) checkOwner(node *corev1.Node) error {
	if node == nil || a.access.Machine == "" {
		return nil
	}
	owner := nodekey.Public(node.Annotations[nodekey.NodeAnnotation])
	if owner == "" || a.access.Machine.Is(owner) {
		return nil
	}
	return fmt.Errorf("node name %q belongs to another machine now: give this one another --node-name and a token, or remove that node with kubectl delete node %s", node.Name, node.Name)
}

// move takes over other addresses and tells whether they are.
func (p *place) move(ips []netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(ips) == 0 || slices.Equal(p.ips, ips) {
		return false
	}
	slog.Info("the node's addresses have changed", "component", "node", "were", text(p.ips), "are", text(ips))
	p.ips = ips
	return true
}

func text(ips []netip.Addr) string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return strings.Join(out, ",")
}

// followPlace looks for other addresses, and tells the network, the API server and
// by it the peers. What cannot be found has not changed: the cable is out.
func (a *Agent) followPlace(ctx context.Context, client kubernetes.Interface, pods *network.Network) {
	tick := time.NewTicker(placeInterval)
	defer tick.Stop()
	announced, refusals, next := true, 0, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ips, err := a.cfg.FindIPs(a.access.ClusterCIDRs, a.access.ServiceCIDRs)
		if err == nil && a.place.move(ips) {
			announced, refusals, next = false, 0, time.Time{}
			pods.SetUnderlay(ips)
			if a.access.Reconnect != nil {
				a.access.Reconnect() // what was dialled from the old address is dead
				a.tunnels.Redial()
			}
		}
		if announced || time.Now().Before(next) {
			continue
		}
		err = a.announce(ctx, client)
		if announced = err == nil; apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			a.place.complain(err)
			if refusals++; refusals > 5 { // not a server that has just started
				next = time.Now().Add(refusedInterval)
			}
		}
	}
}

func (a *Agent) announce(ctx context.Context, client kubernetes.Interface) error {
	if !kubelet.OwnsAddresses(a.cfg.KubeletArgs) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, placeInterval)
	defer cancel()
	node, err := client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return a.place.keep(ctx, client, node)
}
