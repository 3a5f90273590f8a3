package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"brink/agent/join"
	"brink/agent/kubelet"
	"brink/agent/tunnel"
	"brink/internal/lifecycle"
	"brink/internal/once"
)

// health holds the reason why the node is not ready.
type health struct {
	logged once.Reporter

	mu  sync.Mutex
	why string // "" while the node is ready, and before it was
}

func (h *health) set(why string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = why
}

func (h *health) reason() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.why
}

// runNode is ready when the API server has the node as Ready, by a report of
// this process.
func (n *connected) runNode(ctx context.Context, ready func()) error {
	client, err := n.nodeClient()
	if err != nil {
		return err
	}
	return n.followNode(ctx, client, ready)
}

// followNode keeps health up to date until ctx is done, or until the Node is one that
// this process cannot go on with.
func (n *connected) followNode(ctx context.Context, client kubernetes.Interface, ready func()) error {
	wasReady := false
	var fatal error
	_ = kubelet.WatchNode(ctx, client, n.cfg.NodeName, func(node *corev1.Node) bool {
		if fatal = n.status.checkOwner(node); fatal == nil && n.cfg.Join != nil {
			fatal = n.network.checkRanges(node)
		}
		if fatal != nil {
			return true
		}
		n.correctNode(ctx, client, node)
		reason := kubelet.NotReadyReason(node)
		switch {
		case node != nil && kubelet.IsReady(node, n.started):
			wasReady = true
			n.health.set("")
			n.health.logged.Cleared(Node)
			ready()
		case wasReady && reason != "":
			if node == nil {
				n.learnRefusal(ctx, client)
			}
			n.notReady(ctx, reason)
		}
		return false
	})
	return fatal
}

// learnRefusal makes one request. If the servers no longer accept this node's certificate,
// join notes that from their answer, which explains more than that the Node is gone.
func (n *connected) learnRefusal(ctx context.Context, client kubernetes.Interface) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, _ = client.CoreV1().Nodes().Get(ctx, n.cfg.NodeName, metav1.GetOptions{})
}

// correctNode corrects the addresses and annotations of the Node. What cannot be
// written now is corrected at the next event.
func (n *connected) correctNode(ctx context.Context, client kubernetes.Interface, node *corev1.Node) {
	if node == nil || !kubelet.OwnsAddresses(n.cfg.KubeletArgs) {
		return
	}
	if err := n.status.correct(ctx, client, node); ctx.Err() == nil {
		n.status.warn(err)
	}
}

// notReady logs a reason once, although the node's status comes again and again.
func (n *connected) notReady(ctx context.Context, reason string) {
	n.health.set(reason)
	if refused(n.cfg.Join) == nil && n.health.logged.Changed(Node, reason) {
		lifecycle.Logger(ctx).Warn("the node is not ready any more", "reason", reason)
	}
}

// Health returns nil while the API server has the node as Ready and Services are served.
// During a start it also returns nil. Later the error says what is no longer so, or what has
// failed.
func (a *Agent) Health() error {
	ready := refused(a.cfg.Join)
	n := a.connection()
	if n == nil {
		return ready
	}
	if reason := n.health.reason(); reason != "" && ready == nil {
		ready = fmt.Errorf("node %s is not ready: %s", a.cfg.NodeName, reason)
	}
	return errors.Join(ready, n.proxy.Health())
}

// Warnings returns what needs somebody's attention while the node is Ready: peers whose
// pods cannot be reached, servers that cannot reach this node, image archives of no use. It returns nil without any.
func (a *Agent) Warnings() error {
	errs := []error{a.images.Warnings()}
	n := a.connection()
	if n == nil {
		return errs[0]
	}
	errs = append(errs, n.network.warnings())
	if refused(a.cfg.Join) == nil {
		errs = append(errs, noTunnel(n.tunnels.Status()))
	}
	return errors.Join(errs...)
}

// refused returns an error when the servers no longer accept this node's certificate.
func refused(j *join.Join) error {
	if j == nil {
		return nil
	}
	return j.Refused()
}

// noTunnel returns nil while there is a tunnel: one server may be known by several
// addresses, of which this node reaches only some.
func noTunnel(all []tunnel.Status) error {
	var errs []error
	for _, t := range all {
		if t.Up {
			return nil
		}
		errs = append(errs, fmt.Errorf("no tunnel to server %s since %s, through which it reaches this node: %s", t.Server, t.Since.Format(time.TimeOnly), t.Error))
	}
	return errors.Join(errs...)
}
