package controlplane

import (
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
	names := &nodeNames{nodes: corelisters.NewNodeLister(store)}
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
