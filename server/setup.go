package server

import (
	"context"
	"errors"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"brink/internal/lifecycle"
	"brink/internal/once"
)

// runClusterSetup makes the objects that brink's own parts have their rights by. They are
// made when they are missing and then belong to the user, whose changes stay.
//
// It is ready after setupPatience at the latest, and never ends the server: a broken
// admission webhook refuses these writes too, and can be repaired only while the API server
// runs.
func (s *Server) runClusterSetup(ctx context.Context, ready func()) error {
	client, err := s.ownClient()
	if err != nil {
		return err
	}
	overdue := time.AfterFunc(setupPatience, ready)
	kubelets := kubeletAPIBinding()
	ensure(ctx, "ClusterRoleBinding "+kubelets.Name, func(ctx context.Context) error {
		return ensureObject(ctx, client.RbacV1().ClusterRoleBindings(), kubelets)
	})
	ensure(ctx, "namespace "+corev1.NamespaceNodeLease, func(ctx context.Context) error {
		return ensureLeaseNamespace(ctx, client)
	})
	if overdue.Stop() && ctx.Err() == nil {
		ready()
	}
	if s.cfg.HasAgent {
		ensure(ctx, "the role of node "+s.cfg.NodeName, func(ctx context.Context) error {
			return s.labelOwnNode(ctx, client)
		})
	}
	<-ctx.Done()
	return nil
}

// ownClient returns a client that acts as the server itself.
func (s *Server) ownClient() (kubernetes.Interface, error) {
	return kubernetes.NewForConfig(s.ClientConfig("system:apiserver", "system:masters"))
}

// setupPatience is how long an object may be missing before that is logged and nothing waits
// for it any more.
const setupPatience = 20 * time.Second

// ensure calls make until it succeeds or ctx ends, ever more slowly. It logs once that
// make does not succeed, and then also that it did.
func ensure(ctx context.Context, what string, make func(context.Context) error) {
	log, begun := lifecycle.Logger(ctx), time.Now()
	var failures once.Reporter
	pause := wait.Backoff{Duration: 50 * time.Millisecond, Factor: 1.5, Cap: 15 * time.Second, Steps: math.MaxInt32}
	_ = pause.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		err := make(ctx)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err == nil && failures.Cleared(what):
			log.Info("made at last", "what", what)
		case err != nil && time.Since(begun) > setupPatience && failures.Changed(what, what):
			log.Warn("not made yet, retrying", "what", what, "error", err)
		}
		return err == nil, nil
	})
}

// ifMissing calls create if found, the error of a Get, says that the object does not exist.
// The Get comes first because admission may refuse any create, even of an object that
// exists.
func ifMissing(found error, create func() error) error {
	if !apierrors.IsNotFound(found) {
		return found
	}
	if err := create(); !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil // somebody else was quicker
}

// ensureLeaseNamespace makes the namespace of the nodes' heartbeats.
//
// The API server makes it too, but when its only attempt at the start fails, the next comes a
// minute later (upstream's systemnamespaces.NewController). Until then no kubelet can renew
// its lease. It reports its status only every five minutes when nothing changes, and after
// 50 s without either the node is NotReady (NodeMonitorGracePeriod). A trial with upstream's
// components in separate processes showed that: NotReady for ten seconds, 50 s after the
// first start.
func ensureLeaseNamespace(ctx context.Context, client kubernetes.Interface) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}
	return ensureObject(ctx, client.CoreV1().Namespaces(), namespace)
}

const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// errNoNode is logged only when the node has not registered for setupPatience.
var errNoNode = errors.New("the node has not registered")

// labelOwnNode gives the server's own node its role. The kubelet may not do that itself:
// NodeRestriction refuses such labels.
func (s *Server) labelOwnNode(ctx context.Context, client kubernetes.Interface) error {
	node, err := client.CoreV1().Nodes().Get(ctx, s.cfg.NodeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return errNoNode
	}
	if err != nil || node.Labels[controlPlaneLabel] != "" {
		return err
	}
	patch := []byte(`{"metadata":{"labels":{"` + controlPlaneLabel + `":"true"}}}`)
	_, err = client.CoreV1().Nodes().Patch(ctx, s.cfg.NodeName, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}
