package kubelet

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// retry is the pause between attempts to list or watch a node.
const retry = 50 * time.Millisecond

// WaitNode blocks until the named node satisfies ok, then returns it. It
// watches, so it neither polls nor misses a short state for long.
func WaitNode(ctx context.Context, client kubernetes.Interface, name string, ok func(*corev1.Node) bool) (*corev1.Node, error) {
	var found *corev1.Node
	err := wait.PollUntilContextCancel(ctx, retry, true, func(ctx context.Context) (bool, error) {
		found = watchNode(ctx, client, name, ok)
		return found != nil, nil
	})
	return found, err
}

func poll(ctx context.Context, client kubernetes.Interface, name string, ok func(*corev1.Node) bool) error {
	_, err := WaitNode(ctx, client, name, ok)
	return err
}

// watchNode follows one watch to its end and returns nil unless ok was met.
func watchNode(ctx context.Context, client kubernetes.Interface, name string, ok func(*corev1.Node) bool) *corev1.Node {
	w, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String(),
	})
	if err != nil {
		return nil
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		node, isNode := event.Object.(*corev1.Node)
		if isNode && event.Type != watch.Deleted && ok(node) {
			return node
		}
	}
	return nil
}

// NotReadyReason is empty for a Ready node, else what its condition says.
func NotReadyReason(node *corev1.Node) string {
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

// IsReady says whether the node's Ready condition is true and was reported by
// this process, not by the one before a restart.
func IsReady(node *corev1.Node, since time.Time) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Time.Before(since.Truncate(time.Second))
		}
	}
	return false
}
