package join

import (
	"slices"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
