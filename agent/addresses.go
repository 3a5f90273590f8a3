package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/agent/kubelet"
	"brink/network"
)

const (
	// addressInterval is how often the addresses are compared, and how often the API
	// server is told until it has been.
	addressInterval = 5 * time.Second
	// requestTimeout bounds a single request to the API server.
	requestTimeout = 5 * time.Second
	// refusedInterval is how often a status that the cluster refuses is offered again.
	refusedInterval = time.Minute
)

// move takes over other addresses and reports whether they differ.
func (s *nodeStatus) move(ips []netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(ips) == 0 || slices.Equal(s.ips, ips) {
		return false
	}
	slog.Info("the node's addresses have changed", "component", Node, "were", text(s.ips), "are", text(ips))
	s.ips = ips
	return true
}

func text(ips []netip.Addr) string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return strings.Join(out, ",")
}

// followAddresses tells the network and the API server, and through it the peers, when
// the node's addresses change. What cannot be found has not changed: the cable is out.
func (n *connected) followAddresses(ctx context.Context, client kubernetes.Interface, pods *network.Network) {
	tick := time.NewTicker(addressInterval)
	defer tick.Stop()
	announced, refusals, next := true, 0, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		ips, err := n.cfg.FindIPs(n.access.ClusterCIDRs, n.access.ServiceCIDRs)
		if err == nil && n.status.move(ips) {
			announced, refusals, next = false, 0, time.Time{}
			pods.SetUnderlay(ips)
			n.reconnect() // what was dialled from the old address is dead
		}
		if announced || time.Now().Before(next) {
			continue
		}
		err = n.announce(ctx, client)
		if announced = err == nil; apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
			n.status.warn(err)
			if refusals++; refusals > 5 { // not a server that has just started
				next = time.Now().Add(refusedInterval)
			}
		}
	}
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
