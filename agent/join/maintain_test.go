package join

import (
	"context"
	"slices"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/internal/layout"
)

// TestTheEndOfMaintain: when it returns, what was seen is on the disk. The process may end
// right afterwards.
func TestTheEndOfMaintain(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	joined(t, l, time.Now().Add(time.Hour))
	j, err := New(Config{Server: "127.0.0.1:1", NodeName: "till", Layout: l}) // nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	j.api = newTransport(j.pool, j.TLS, j.refusal, j.prover)
	j.seen.note("170")
	ctx, cancel := context.WithCancel(t.Context())
	if err := j.Maintain(ctx, func(_, _ []string) { time.AfterFunc(100*time.Millisecond, cancel) }); err != nil {
		t.Error(err)
	}
	if got := newSeen(l.SeenRevision()).revision(); got != 170 {
		t.Errorf("the revision %d is written down, want 170", got)
	}
}

// TestServersAreTheirOwn: whoever may make EndpointSlices in default makes no servers.
func TestServersAreTheirOwn(t *testing.T) {
	t.Parallel()
	port := int32(6443)
	slice := func(name string, addresses ...string) *discoveryv1.EndpointSlice {
		s := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
			Ports:      []discoveryv1.EndpointPort{{Port: &port}},
		}
		for _, a := range addresses {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
		}
		return s
	}
	all := []any{slice("kubernetes-x", "192.0.2.66"), slice("kubernetes", "192.0.2.1", "2001:db8::1"), slice("mine", "192.0.2.67")}
	if got, want := endpoints(all), []string{"192.0.2.1:6443", "[2001:db8::1]:6443"}; !slices.Equal(got, want) {
		t.Errorf("servers are %v, want %v", got, want)
	}
}
