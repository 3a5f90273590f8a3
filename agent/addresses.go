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
	// announceInterval is how often the API server is told of an address until it knows.
	announceInterval = 5 * time.Second
	// requestTimeout bounds a single request to the API server.
	requestTimeout = 5 * time.Second
	// refusedInterval is how often a status that the cluster refuses is offered again.
	refusedInterval = time.Minute
)

// runAddress keeps the node's addresses up to date. Beside a server, the server does.
func (a *Agent) runAddress(ctx context.Context, ready func()) error {
	return a.cfg.Addresses.Run(ctx, ready, nil)
}

// followAddresses tells the network and the API server, and through it the peers, when
// the node's addresses are others than those that the network began with.
func (n *connected) followAddresses(ctx context.Context, client kubernetes.Interface, pods *network.Network, begun []netip.Addr) {
	tick := time.NewTicker(announceInterval)
	defer tick.Stop()
	var news *announcement // nil when the API server knows
	for {
		changed := n.cfg.Addresses.Changed()
		if ips := n.cfg.Addresses.IPs(); !slices.Equal(ips, begun) {
			begun, news = ips, &announcement{}
			pods.SetUnderlay(ips)
			n.reconnect() // what was dialled from the old address is dead
		}
		if news != nil && news.isDue() && n.tryAnnounce(ctx, client, news) {
			news = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// announcement is a change of addresses that the API server does not know of yet.
type announcement struct {
	refusals int
	next     time.Time
}

func (a *announcement) isDue() bool { return !time.Now().Before(a.next) }

// tryAnnounce reports whether the API server knows the node's addresses. Refusals are
// logged, and offered rarely once they cannot come from a server that has just started.
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
