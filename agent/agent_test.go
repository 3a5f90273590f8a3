package agent

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"

	"brink/agent/join"
	"brink/internal/layout"
	"brink/internal/testwait"
	"brink/network"
	"brink/network/nodeaddr"
)

func readyNode() *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(time.Now().Add(time.Hour))},
		}},
	}
}

// waitForWatch waits for a watch: the fake's show no past.
func waitForWatch(t *testing.T, client *fake.Clientset) {
	t.Helper()
	isThere := func() bool {
		return slices.ContainsFunc(client.Actions(), func(a clienttesting.Action) bool { return a.GetVerb() == "watch" })
	}
	testwait.Until(t, "the node is watched", isThere)
	time.Sleep(100 * time.Millisecond) // between being asked for and being there
}

// TestDeletedNode: after `kubectl delete node` the kubelet goes on as if nothing
// had happened and never registers again.
func TestDeletedNode(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset(readyNode())
	access := Access{API: func(string, ...string) *rest.Config { return &rest.Config{} }, Backend: network.VXLAN}
	a, err := New(Config{NodeName: "node-1", Addresses: nodeaddr.Given(), Access: &access, Layout: layout.New(t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}, 10), make(chan struct{})
	go func() {
		if err := a.node.followNode(ctx, client, func() { ready <- struct{}{} }); err != nil {
			t.Error(err)
		}
		close(ended)
	}()
	<-ready
	waitForWatch(t, client)
	if err := a.Health(); err != nil {
		t.Errorf("a ready node: %v", err)
	}
	if err := client.CoreV1().Nodes().Delete(t.Context(), "node-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, "the deletion is noticed", func() bool { return a.Health() != nil })
	if got := a.Health().Error(); !strings.Contains(got, "node-1") || !strings.Contains(got, "restart brink") {
		t.Errorf("got %q, want the node and what to do", got)
	}
	// Whoever makes the node again has it served again.
	if _, err := client.CoreV1().Nodes().Create(t.Context(), readyNode(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	testwait.UntilNil(t, "a node that was made again is served", a.Health)
	cancel()
	<-ended
}

// TestNewChecksFlagsBeforeJoining: on a machine that does not know its cluster yet, flags
// are parsed, and nothing that needs the cluster is built.
func TestNewChecksFlagsBeforeJoining(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ kubelet, proxy, want string }{
		{"max-pods=7", "masquerade-all", ""},
		{"max-pods=many", "masquerade-all", "--kubelet-arg=max-pods=many: "},
		{"max-pods=7", "proxy-mode=ipvs", "--kube-proxy-arg=proxy-mode=ipvs: "},
		{"client-ca-file=/tmp/x", "masquerade-all", "--kubelet-arg=client-ca-file=/tmp/x: "},
	} {
		a, err := New(Config{NodeName: "node-1", Addresses: nodeaddr.NewWatcher(""), Layout: layout.New(t.TempDir()), KubeletArgs: []string{tt.kubelet}, ProxyArgs: []string{tt.proxy}})
		if (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s and %s: got %v, want %q", tt.kubelet, tt.proxy, err, tt.want)
		}
		if err == nil && a.connection() != nil {
			t.Error("a node is built before its cluster is known")
		}
	}
}

// TestComponents: the start list has what the node needs beside a server and on a
// machine of its own, each name once.
func TestComponents(t *testing.T) {
	t.Parallel()
	const common = "cgroups containerd images kubelet network service-proxy node"
	for _, tt := range []struct {
		join *join.Join
		want string
	}{{nil, common}, {&join.Join{}, "join address tunnel-client " + common}} {
		a := &Agent{cfg: Config{Join: tt.join, KubeletNeeds: []string{"controllers"}}, connected: make(chan struct{})}
		var names []string
		for _, c := range a.Components() {
			names = append(names, c.Name)
			for _, need := range c.Needs {
				if need != "controllers" && !slices.Contains(names, need) {
					t.Errorf("%s needs %s, which does not come before it", c.Name, need)
				}
			}
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("got %s, want %s", got, tt.want)
		}
	}
}
