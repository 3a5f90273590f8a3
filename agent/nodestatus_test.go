package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"brink/internal/wire/nodekey"
	"brink/network"
)

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestTheNodeSaysWhereItIs(t *testing.T) {
	t.Parallel()
	s := newNodeStatus("till", addrs("192.0.2.1", "2001:db8::1"), addrs("203.0.113.7"), Access{Backend: network.HostGW})
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
	s := newNodeStatus("till", addrs("192.0.2.1"), nil, Access{Backend: network.VXLAN})
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
		err := newNodeStatus("till", nil, nil, Access{Machine: tt.own}).checkOwner(node)
		if (err != nil) != tt.foreign || err != nil && !strings.Contains(err.Error(), "kubectl delete node till") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMovingIsNoticedOnce(t *testing.T) {
	t.Parallel()
	s := newNodeStatus("till", addrs("192.0.2.1"), nil, Access{Backend: network.VXLAN})
	for _, step := range []struct {
		to   []netip.Addr
		want bool
	}{{addrs("192.0.2.1"), false}, {nil, false}, {addrs("192.0.2.2"), true}, {addrs("192.0.2.2"), false}} {
		if got := s.move(step.to); got != step.want {
			t.Errorf("moving to %v: %t", step.to, got)
		}
	}
	if got := s.addresses()[0].Address; got != "192.0.2.2" {
		t.Errorf("after moving the node is at %s", got)
	}
}
