package agent

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/internal/testaddr"
	"brink/network"
)

// peerNode is a Node at an address with a range.
func peerNode(name, addr, cidr, backend string) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{backendAnnotation: backend}}}
	if addr != "" {
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: addr}}
	}
	if cidr != "" {
		node.Spec.PodCIDRs = []string{cidr}
	}
	return node
}

func TestNodesBecomePeers(t *testing.T) {
	t.Parallel()
	nodes := []any{
		peerNode("c", "192.0.2.3", "10.42.3.0/24", "host-gw"),
		peerNode("own", "192.0.2.1", "10.42.1.0/24", "vxlan"),
		peerNode("b", "192.0.2.2", "10.42.2.0/24", ""),
		peerNode("without-range", "192.0.2.4", "", "vxlan"),
		peerNode("without-address", "", "10.42.5.0/24", "vxlan"),
		peerNode("newer", "192.0.2.6", "10.42.6.0/24", "carrier-pigeon"),
	}
	prefix := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	want := []network.Peer{
		{Name: "b", CIDRs: prefix("10.42.2.0/24"), Underlay: testaddr.Addrs("192.0.2.2")},
		{Name: "c", CIDRs: prefix("10.42.3.0/24"), Underlay: testaddr.Addrs("192.0.2.3"), Backend: network.HostGW},
		{Name: "newer", CIDRs: prefix("10.42.6.0/24"), Underlay: testaddr.Addrs("192.0.2.6")},
	}
	l := peerList{own: "own", log: slog.New(slog.DiscardHandler)}
	if got := l.peers(nodes); !reflect.DeepEqual(got, want) {
		t.Errorf("peers %+v, want %+v", got, want)
	}
}

// TestAnInvalidAddressIsLoggedOnce, although all Nodes are read again at each change of one.
func TestAnInvalidAddressIsLoggedOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := peerList{own: "own", log: slog.New(slog.NewTextHandler(&out, nil))}
	for _, step := range []struct {
		address string
		lines   int // in all
	}{{"192.0.2.300", 1}, {"192.0.2.300", 1}, {"not-yet", 2}, {"192.0.2.3", 2}, {"not-yet", 3}} {
		l.pass(func() []any { return []any{peerNode("c", step.address, "10.42.3.0/24", "")} }, func([]network.Peer) {})
		if got := strings.Count(out.String(), "not an IP address"); got != step.lines {
			t.Errorf("at address %s: %d lines, want %d", step.address, got, step.lines)
		}
	}
}

// TestThePeersThatCameLastStay: two goroutines pass on peers, one when the cache has synced
// and one for each event, and an older list must not be passed on last.
func TestThePeersThatCameLastStay(t *testing.T) {
	t.Parallel()
	l := peerList{own: "own", log: slog.New(slog.DiscardHandler)}
	var listed, set atomic.Int64
	list := func() []any {
		n := listed.Add(1)
		return []any{peerNode("c", fmt.Sprintf("192.0.2.%d", n), "10.42.3.0/24", "")}
	}
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			for range 100 {
				l.pass(list, func(peers []network.Peer) {
					now := int64(peers[0].Underlay[0].As4()[3])
					time.Sleep(10 * time.Microsecond)
					if before := set.Swap(now); before > now {
						t.Errorf("list %d was passed on after list %d", now, before)
					}
				})
			}
		})
	}
	running.Wait()
}

func TestHeartbeatsAreNoChangeOfAPeer(t *testing.T) {
	t.Parallel()
	trimmed := func(change func(*corev1.Node)) any {
		node := peerNode("b", "192.0.2.2", "10.42.2.0/24", "vxlan")
		change(node)
		out, err := trimNode(node)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	was := trimmed(func(*corev1.Node) {})
	for what, tc := range map[string]struct {
		change func(*corev1.Node)
		same   bool
	}{
		"heartbeat":  {func(n *corev1.Node) { n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{}) }, true},
		"label":      {func(n *corev1.Node) { n.Labels = map[string]string{"a": "b"} }, true},
		"annotation": {func(n *corev1.Node) { n.Annotations["theirs"] = "x" }, true},
		"backend":    {func(n *corev1.Node) { n.Annotations[backendAnnotation] = "host-gw" }, false},
		"address":    {func(n *corev1.Node) { n.Status.Addresses[1].Address = "192.0.2.9" }, false},
		"range":      {func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.42.9.0/24"} }, false},
	} {
		if got := samePeer(was, trimmed(tc.change)); got != tc.same {
			t.Errorf("%s: the same peer: %t", what, got)
		}
	}
}
