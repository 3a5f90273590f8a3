package e2e

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"brink/e2e/machine"
)

// output collects what a running command writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// has returns nil when text was written.
func (o *output) has(text string) error {
	if got := o.String(); !strings.Contains(got, text) {
		return fmt.Errorf("%q is not in the output so far:\n%s", text, got)
	}
	return nil
}

// podEvent is one change of a pod, in the order in which the API server tells.
type podEvent struct {
	kind watch.EventType
	pod  *corev1.Pod
}

// podHistory records every change of the pods of a selector: order is what many
// controllers promise, and it cannot be seen by looking now and then.
type podHistory struct {
	mu     sync.Mutex
	events []podEvent
	closed bool
	stop   func()
}

func (ns *namespace) recordPods(selector string) *podHistory {
	ns.Helper()
	ctx := context.Background()
	list, err := ns.client.CoreV1().Pods(ns.name).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		ns.Fatal(err)
	}
	w, err := ns.client.CoreV1().Pods(ns.name).Watch(ctx, metav1.ListOptions{
		LabelSelector: selector, ResourceVersion: list.ResourceVersion})
	if err != nil {
		ns.Fatal(err)
	}
	h := &podHistory{stop: w.Stop}
	for i := range list.Items {
		h.events = append(h.events, podEvent{watch.Added, &list.Items[i]})
	}
	ns.Cleanup(w.Stop)
	go h.follow(w)
	return h
}

func (h *podHistory) follow(w watch.Interface) {
	for e := range w.ResultChan() {
		if pod, ok := e.Object.(*corev1.Pod); ok {
			h.mu.Lock()
			h.events = append(h.events, podEvent{e.Type, pod})
			h.mu.Unlock()
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

// replay calls see for every event with the pods as they were just before it. A
// watch that ended before could have missed something, so it fails the test.
func (h *podHistory) replay(ns *namespace, see func(e podEvent, before map[string]*corev1.Pod)) {
	ns.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		ns.Fatal("the watch on pods was closed by the server")
	}
	pods := map[string]*corev1.Pod{}
	for _, e := range h.events {
		see(e, pods)
		if e.kind == watch.Deleted {
			delete(pods, e.pod.Name)
		} else {
			pods[e.pod.Name] = e.pod
		}
	}
}

// readyWatch follows a node's Ready condition from its first Ready on.
type readyWatch struct {
	node *node
	// first is the condition when the watch began.
	first  corev1.NodeCondition
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	lost []string
}

func watchReady(n *node) (*readyWatch, error) {
	ctx, cancel := context.WithCancel(context.Background())
	w := &readyWatch{node: n, cancel: cancel, done: make(chan struct{})}
	obj, err := n.Client.CoreV1().Nodes().Get(ctx, n.ID, metav1.GetOptions{})
	if err != nil {
		cancel()
		return nil, err
	}
	w.first = machine.ReadyCondition(obj)
	w.note(obj)
	go w.follow(ctx, obj.ResourceVersion)
	return w, nil
}

// follow watches again when a watch ends, from the state at that time. What it
// then misses still shows in the condition's last transition.
func (w *readyWatch) follow(ctx context.Context, version string) {
	defer close(w.done)
	for ctx.Err() == nil {
		events, err := w.node.Client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{
			FieldSelector: "metadata.name=" + w.node.ID, ResourceVersion: version})
		version = ""
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for e := range events.ResultChan() {
			if obj, ok := e.Object.(*corev1.Node); ok {
				w.note(obj)
			}
		}
	}
}

func (w *readyWatch) note(obj *corev1.Node) {
	c := machine.ReadyCondition(obj)
	if c.Status == corev1.ConditionTrue {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = append(w.lost, fmt.Sprintf("%s: %s: %s", c.LastTransitionTime.Time, c.Reason, c.Message))
}

// losses are the times when the node was seen not Ready.
func (w *readyWatch) losses() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.lost...)
}

func (w *readyWatch) stop() {
	w.cancel()
	<-w.done
}
