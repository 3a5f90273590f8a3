package controlplane

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// TestNodeNamesResolve in requests that proxy to nodes, and in no others.
func TestNodeNamesResolve(t *testing.T) {
	t.Parallel()
	store := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "far.node.invalid"}}
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "far.node.invalid"},
		{Type: corev1.NodeInternalIP, Address: "192.0.2.7"},
		{Type: corev1.NodeExternalIP, Address: "203.0.113.7"},
	}
	if err := store.Add(node); err != nil {
		t.Fatal(err)
	}
	names := &nodeNames{nodes: corelisters.NewNodeLister(store), pods: corelisters.NewPodLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil))}
	resolve := func(info request.RequestInfo, host string) (found []net.IPAddr) {
		r := httptest.NewRequestWithContext(request.WithRequestInfo(t.Context(), &info), http.MethodGet, "/", nil)
		names.wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			found, _ = net.DefaultResolver.LookupIPAddr(r.Context(), host)
		})).ServeHTTP(httptest.NewRecorder(), r)
		return found
	}
	proxy := request.RequestInfo{IsResourceRequest: true, Resource: "nodes", Subresource: "proxy"}
	if got := resolve(proxy, "far.node.invalid"); len(got) != 1 || got[0].String() != "192.0.2.7" {
		t.Errorf("the node is at %v", got)
	}
	if got := resolve(proxy, "other.node.invalid"); len(got) != 0 {
		t.Errorf("no node is at %v", got)
	}
	if got := resolve(proxy, "localhost"); len(got) == 0 {
		t.Error("other names do not resolve any more")
	}
	log := request.RequestInfo{IsResourceRequest: true, Resource: "pods", Subresource: "log"}
	if got := resolve(log, "far.node.invalid"); len(got) != 0 {
		t.Errorf("another request finds the node at %v", got)
	}
}

// TestRequestsReachTheirKubelet: a node whose status names another one does not have
// its requests answered there.
func TestRequestsReachTheirKubelet(t *testing.T) {
	t.Parallel()
	nodes, pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil), cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	put := func(name string, addresses ...corev1.NodeAddress) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Addresses: addresses}}
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "on-" + name}, Spec: corev1.PodSpec{NodeName: name}}
		if err := errors.Join(nodes.Add(node), pods.Add(pod)); err != nil {
			t.Fatal(err)
		}
	}
	called := func(name string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeHostName, Address: name}
	}
	at := func(ip string) corev1.NodeAddress {
		return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip}
	}
	put("n1", at("192.0.2.1"), called("n1"))
	put("liar", at("192.0.2.2"), called("n1"))
	put("mute", at("192.0.2.1"))
	put("empty")
	byName := []corev1.NodeAddressType{corev1.NodeHostName, corev1.NodeInternalIP}
	byAddress := []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName}
	for _, tc := range []struct {
		types []corev1.NodeAddressType
		node  string
		want  int
	}{
		{byName, "n1", 200}, {byName, "liar", 503}, {byName, "mute", 503}, {byName, "empty", 200}, {byName, "unknown", 200},
		{byAddress, "liar", 200}, {byAddress, "mute", 503}, {byAddress, "n1", 503},
	} {
		names := &nodeNames{nodes: corelisters.NewNodeLister(nodes), pods: corelisters.NewPodLister(pods), types: tc.types}
		for _, info := range []request.RequestInfo{
			{Resource: "nodes", Subresource: "proxy", Name: tc.node},
			{Resource: "nodes", Subresource: "proxy", Name: "https:" + tc.node + ":10250"},
			{Resource: "pods", Subresource: "log", Namespace: "ns", Name: "on-" + tc.node},
			{Resource: "pods", Subresource: "exec", Namespace: "ns", Name: "on-" + tc.node},
			{Resource: "pods", Subresource: "attach", Namespace: "ns", Name: "on-" + tc.node},
			{Resource: "pods", Subresource: "portforward", Namespace: "ns", Name: "on-" + tc.node},
		} {
			if got := ask(t, names, info); got != tc.want {
				t.Errorf("%s/%s of %s by %v: %d, want %d", info.Resource, info.Subresource, info.Name, tc.types, got, tc.want)
			}
		}
		if got := ask(t, names, request.RequestInfo{Resource: "nodes", Subresource: "status", Name: tc.node}); got != 200 {
			t.Errorf("another request about %s: %d", tc.node, got)
		}
	}
}

// ask returns the status of the answer to a request that goes through names.
func ask(t *testing.T, names *nodeNames, info request.RequestInfo) int {
	info.IsResourceRequest, info.APIVersion = true, "v1"
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(request.WithRequestInfo(t.Context(), &info), http.MethodGet, "/", nil)
	names.wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, r)
	return w.Code
}
