package kubelet

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Pauses between attempts to list or watch a node: short while a server starts, longer
// while it is away.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = 5 * time.Second
)

// WaitNode blocks until the named node exists and satisfies ok, then returns
// it. It watches, so it neither polls nor misses a short state for long.
func WaitNode(ctx context.Context, client kubernetes.Interface, name string, ok func(*corev1.Node) bool) (*corev1.Node, error) {
	var found *corev1.Node
	err := WatchNode(ctx, client, name, func(node *corev1.Node) bool {
		found = node
		return node != nil && ok(node)
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// WatchNode calls done with each state of the named node, nil while there is none, until
// done returns true.
func WatchNode(ctx context.Context, client kubernetes.Interface, name string, done func(*corev1.Node) bool) error {
	pause := firstPause
	for {
		begun := time.Now()
		if watchOnce(ctx, client, name, done) {
			return nil
		}
		if pause = min(pause*3/2, longestPause); time.Since(begun) > longestPause {
			pause = firstPause // the watch has worked
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// watchOnce follows one watch to its end and reports whether done returned true. It
// lists first: a watch alone does not show that a node was deleted in between.
func watchOnce(ctx context.Context, client kubernetes.Interface, name string, done func(*corev1.Node) bool) bool {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
	list, err := client.CoreV1().Nodes().List(ctx, options)
	if err != nil {
		return false
	}
	var node *corev1.Node
	if len(list.Items) > 0 {
		node = &list.Items[0]
	}
	if done(node) {
		return true
	}
	options.ResourceVersion = list.ResourceVersion
	w, err := client.CoreV1().Nodes().Watch(ctx, options)
	if err != nil {
		return false
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case event, ok := <-w.ResultChan():
			if !ok {
				return false
			}
			node, isNode := event.Object.(*corev1.Node)
			if event.Type == watch.Deleted {
				node = nil
			}
			if isNode && done(node) {
				return true
			}
		}
	}
}

// NotReadyReason returns "" for a Ready node, else the message of its condition. Nil
// means that the node was deleted: the kubelet registers once, because a machine that was
// taken out of the cluster must not come back by itself.
func NotReadyReason(node *corev1.Node) string {
	if node == nil {
		return "it was deleted from the cluster: restart brink to register it again"
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return ""
			}
			return c.Message
		}
	}
	return "the kubelet has not reported yet"
}

// IsReady reports whether the node's Ready condition is true and from this process, not
// from the one before a restart.
func IsReady(node *corev1.Node, since time.Time) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(since.Truncate(time.Second))
		}
	}
	return false
}
