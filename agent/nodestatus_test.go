package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"brink/internal/testaddr"
	"brink/internal/wire/nodekey"
	"brink/network"
	"brink/network/nodeaddr"
)

func TestTheNodeSaysWhereItIs(t *testing.T) {
	t.Parallel()
	s := newNodeStatus(Config{NodeName: "till", Addresses: nodeaddr.Given(testaddr.Addrs("192.0.2.1", "2001:db8::1")...), ExternalIPs: testaddr.Addrs("203.0.113.7")}, Access{Backend: network.HostGW})
	want := []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
		{Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
		{Type: corev1.NodeExternalIP, Address: "203.0.113.7"},
		{Type: corev1.NodeHostName, Address: "till"},
	}
	fresh := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "till"}}
	s.complete(fresh)
	if !slices.Equal(fresh.Status.Addresses, want) || fresh.Annotations[backendAnnotation] != "host-gw" {
		t.Errorf("a new node is at %v with %v", fresh.Status.Addresses, fresh.Annotations)
	}

	// One that an earlier version has made, with an address that is old.
	old := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "till", Annotations: map[string]string{"theirs": "stays"}}}
	old.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.9"}, {Type: corev1.NodeHostName, Address: "till"}}
	client := fake.NewClientset(old)
	if err := s.correct(t.Context(), client, old); err != nil {
		t.Fatal(err)
	}
	got, err := client.CoreV1().Nodes().Get(t.Context(), "till", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Status.Addresses, want) || got.Annotations[backendAnnotation] != "host-gw" || got.Annotations["theirs"] != "stays" {
		t.Errorf("an old node is at %v with %v", got.Status.Addresses, got.Annotations)
	}
	before := len(client.Actions())
	if err := s.correct(t.Context(), client, got); err != nil {
		t.Fatal(err)
	}
	if n := len(client.Actions()) - before; n > 0 {
		t.Errorf("%d requests about a node that says what it should", n)
	}
}

// TestWarningsAreNews: what is repeated is not logged, what comes again after all was
// well is.
func TestWarningsAreNews(t *testing.T) {
	var out bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	defer slog.SetDefault(before)
	s := newNodeStatus(Config{NodeName: "till"}, Access{Backend: network.VXLAN})
	one, two := errors.New("one"), errors.New("two")
	for _, err := range []error{one, one, two, two, nil, nil, two} {
		s.warn(err)
	}
	var said []string
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		_, text, _ := strings.Cut(line, "msg=")
		said = append(said, text)
	}
	if got := strings.Join(said, ", "); got != "one component=node, two component=node, two component=node" {
		t.Errorf("said %s", got)
	}
}

// TestTheNodeOfAnotherMachine: a name that was given away is not written into.
func TestTheNodeOfAnotherMachine(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		own, says nodekey.Public
		foreign   bool
	}{
		"its own":                      {"a", "a", false},
		"made by an earlier version":   {"a", "", false},
		"another machine's":            {"a", "b", true},
		"a server's":                   {"", "b", false},
		"another's that begins alike":  {"a", "ab", true},
		"a node that has been deleted": {"a", "deleted", false},
	} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "till", Annotations: map[string]string{nodekey.NodeAnnotation: string(tt.says)}}}
		if tt.says == "deleted" {
			node = nil
		}
		err := newNodeStatus(Config{NodeName: "till"}, Access{Machine: tt.own}).checkOwner(node)
		if (err != nil) != tt.foreign || err != nil && !strings.Contains(err.Error(), "kubectl delete node till") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnnouncedUntilKnown: a Node whose address has changed is corrected, however often
// the API server refuses that, and those refusals become rare.
func TestAnnouncedUntilKnown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "till"}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
		client := fake.NewClientset(node)
		refusals := 0
		client.PrependReactor("patch", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
			if refusals++; refusals <= 8 {
				return true, nil, apierrors.NewForbidden(corev1.Resource("nodes"), "till", errors.New("not yet"))
			}
			return false, nil, nil
		})
		cfg := Config{NodeName: "till", Addresses: nodeaddr.Given(testaddr.Addrs("192.0.2.2")...)}
		n := &connected{cfg: cfg, status: newNodeStatus(cfg, Access{})}
		n.status.annotations = nil
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		begun := time.Now()
		go n.followAddresses(ctx, client, network.New(network.Config{}), testaddr.Addrs("192.0.2.1"))
		at := func() string {
			got, err := client.CoreV1().Nodes().Get(t.Context(), "till", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return got.Status.Addresses[0].Address
		}
		for at() == "192.0.2.1" && time.Since(begun) < time.Hour {
			time.Sleep(time.Second)
		}
		took := time.Since(begun)
		if at() != "192.0.2.2" || took < 2*refusedInterval || took > 4*refusedInterval {
			t.Errorf("the node is at %s after %s and %d refusals", at(), took, refusals)
		}
		time.Sleep(time.Hour)
		if refusals != 9 {
			t.Errorf("%d patches", refusals)
		}
	})
}
