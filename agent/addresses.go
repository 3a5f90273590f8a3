package agent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/agent/kubelet"
	"brink/network"
)

const (
	// announceInterval is the pause between two attempts to write new addresses into the
	// Node.
	announceInterval = 5 * time.Second
	// requestTimeout bounds a single request to the API server.
	requestTimeout = 5 * time.Second
	// refusedInterval is that pause after the cluster has refused them several times.
	refusedInterval = time.Minute
)

// runAddress keeps the node's addresses up to date. Beside a server, the server does.
func (a *Agent) runAddress(ctx context.Context, ready func()) error {
	return a.cfg.Addresses.Run(ctx, ready, nil)
}

// followAddresses passes on each change of the node's addresses: to the network, and to
// the API server, from which the peers learn of it. current are the addresses with which
// the network was made.
func (n *connected) followAddresses(ctx context.Context, client kubernetes.Interface, pods *network.Network, current []netip.Addr) {
	var pending *announcement // nil when the API server knows
	for {
		changed := n.cfg.Addresses.Changed()
		if ips := n.cfg.Addresses.IPs(); !slices.Equal(ips, current) {
			current, pending = ips, &announcement{}
			pods.SetUnderlay(ips)
			n.reconnect() // what was dialled from the old address is dead
		}
		if pending != nil && pending.isDue() && n.tryAnnounce(ctx, client, pending) {
			pending = nil
		}
		var retry <-chan time.Time // an idle node is not woken
		if pending != nil {
			retry = time.After(announceInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-retry:
		}
	}
}

// announcement is a change of addresses that the API server does not know of yet.
type announcement struct {
	refusals int
	next     time.Time
}

func (a *announcement) isDue() bool { return !time.Now().Before(a.next) }

// tryAnnounce reports whether the API server knows the node's addresses. It logs refusals.
// The first ones may come from a server that has just started; after these the next attempt
// waits for refusedInterval.
func (n *connected) tryAnnounce(ctx context.Context, client kubernetes.Interface, a *announcement) bool {
	err := n.announce(ctx, client)
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
		n.status.warn(err)
		if a.refusals++; a.refusals > 5 {
			a.next = time.Now().Add(refusedInterval)
		}
	}
	return err == nil
}

func (n *connected) reconnect() {
	if n.access.Reconnect != nil {
		n.access.Reconnect()
		n.tunnels.Redial()
	}
}

// announce writes the node's addresses into the Node.
func (n *connected) announce(ctx context.Context, client kubernetes.Interface) error {
	if !kubelet.OwnsAddresses(n.cfg.KubeletArgs) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	node, err := client.CoreV1().Nodes().Get(ctx, n.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	return n.status.correct(ctx, client, node)
}
