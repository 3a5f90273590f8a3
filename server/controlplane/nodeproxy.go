package controlplane

import (
	"context"
	"net"
	"net/http"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// nodeNames lets /api/v1/nodes/NAME/proxy work although no DNS knows the names of
// nodes. Upstream resolves the host it is about to dial, to refuse loopback and
// link-local addresses, and since kubelets are addressed by name that is a name.
// There is no setting for it: the resolver is net.DefaultResolver. Replacing that
// would change name resolution for the whole process, kubelet and image pulls
// included; these requests alone are given a context in which their node's name
// has the node's internal addresses. The check keeps its sense.
type nodeNames struct {
	nodes corelisters.NodeLister // nil when nodes are dialed by address
}

func (n *nodeNames) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := request.RequestInfoFrom(r.Context())
		if ok && n.nodes != nil && info.APIGroup == "" && info.Resource == "nodes" && info.Subresource == "proxy" {
			r = r.WithContext(resolving{r.Context(), n.nodes})
		}
		next.ServeHTTP(w, r)
	})
}

// resolving is a context in which the names of nodes can be resolved.
type resolving struct {
	context.Context
	nodes corelisters.NodeLister
}

// Value answers package net, which asks for a resolver under a key of a type that
// only the standard library can name. A test fails when it asks no more.
func (c resolving) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && t.PkgPath() == "internal/nettrace" && t.Name() == "LookupIPAltResolverKey" {
		return c.lookup
	}
	return c.Context.Value(key)
}

func (c resolving) lookup(_ context.Context, _, host string) ([]net.IPAddr, error) {
	node, err := c.nodes.Get(host)
	if err != nil {
		// Another resolver: the default one would wait for this very lookup.
		return (&net.Resolver{}).LookupIPAddr(c.Context, host)
	}
	var out []net.IPAddr
	for _, address := range node.Status.Addresses {
		if ip := net.ParseIP(address.Address); ip != nil && address.Type == corev1.NodeInternalIP {
			out = append(out, net.IPAddr{IP: ip})
		}
	}
	if len(out) == 0 {
		return nil, &net.DNSError{Err: "the node has no internal address", Name: host, IsNotFound: true}
	}
	return out, nil
}
