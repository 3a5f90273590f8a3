package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"brink/internal/wire/nodestatus"
)

// nodeNames makes /api/v1/nodes/NAME/proxy work although DNS does not know the names of
// nodes. Upstream resolves the host that it is about to dial, to refuse loopback and
// link-local addresses, and the host is a name because kubelets are addressed by name. It
// resolves by net.DefaultResolver, without a setting. Replacing that would change name
// resolution for the whole process, kubelet and image pulls included; instead these requests
// get a context in which their node's name resolves to the node's internal addresses. So the
// check still checks the right addresses.
//
// It also makes sure that requests reach the kubelet that they are for. Upstream dials the
// host in a node's status and caches connections by host: a status with the name of another
// node would send requests to that node.
type nodeNames struct {
	nodes corelisters.NodeLister // nil when nodes are dialed by address
	pods  corelisters.PodLister
	types []corev1.NodeAddressType // in the order in which kubelets are addressed
}

func (n *nodeNames) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := request.RequestInfoFrom(r.Context())
		if !ok || n.nodes == nil || info.APIGroup != "" || info.Subresource == "" {
			next.ServeHTTP(w, r)
			return
		}
		if err := n.checkKubelet(info); err != nil {
			responsewriters.ErrorNegotiated(err, legacyscheme.Codecs, schema.GroupVersion{Version: info.APIVersion}, w, r)
			return
		}
		if info.Resource == "nodes" && info.Subresource == "proxy" {
			r = r.WithContext(resolving{r.Context(), n.nodes})
		}
		next.ServeHTTP(w, r)
	})
}

// kubeletOf returns the node whose kubelet a request is for, "" for all other requests.
func (n *nodeNames) kubeletOf(info *request.RequestInfo) string {
	switch info.Resource + "/" + info.Subresource {
	case "nodes/proxy":
		_, name, _, _ := utilnet.SplitSchemeNamePort(info.Name)
		return name
	case "pods/log", "pods/exec", "pods/attach", "pods/portforward":
		if pod, err := n.pods.Pods(info.Namespace).Get(info.Name); err == nil {
			return pod.Spec.NodeName
		}
	}
	return ""
}

// checkKubelet refuses a request for a node whose status leads elsewhere.
func (n *nodeNames) checkKubelet(info *request.RequestInfo) error {
	node, err := n.nodes.Get(n.kubeletOf(info))
	if err != nil {
		return nil // upstream answers that
	}
	host := n.hostOf(node)
	switch {
	case host == node.Name:
		return nil
	case host == "":
		return nil // upstream does not find one either
	case n.types[0] == corev1.NodeHostName, net.ParseIP(host) == nil:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("node %s says that it is %s: its status has to have its own name as Hostname; restart brink there", node.Name, host))
	}
	return n.checkAddress(node, host)
}

// hostOf returns the host by which upstream dials a node's kubelet.
func (n *nodeNames) hostOf(node *corev1.Node) string {
	for _, kind := range n.types {
		for _, address := range node.Status.Addresses {
			if address.Type == kind {
				return address.Address
			}
		}
	}
	return ""
}

// checkAddress refuses a host that two nodes have. That is possible only where the user set
// --kubelet-preferred-address-types.
func (n *nodeNames) checkAddress(node *corev1.Node, host string) error {
	all, err := n.nodes.List(labels.Everything())
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	for _, other := range all {
		if other.Name != node.Name && n.hostOf(other) == host {
			return apierrors.NewServiceUnavailable(fmt.Sprintf("nodes %s and %s both say that they are at %s: give each its own address with --node-ip", node.Name, other.Name, host))
		}
	}
	return nil
}

// resolving is a context in which the names of nodes resolve to their internal addresses.
type resolving struct {
	context.Context
	nodes corelisters.NodeLister
}

// Value gives package net a resolver: net asks for it by a key whose type only the standard
// library can name. A test fails when it no longer asks.
func (c resolving) Value(key any) any {
	if t := reflect.TypeOf(key); t != nil && t.PkgPath() == "internal/nettrace" && t.Name() == "LookupIPAltResolverKey" {
		return c.lookup
	}
	return c.Context.Value(key)
}

func (c resolving) lookup(_ context.Context, _, host string) ([]net.IPAddr, error) {
	node, err := c.nodes.Get(host)
	if err != nil {
		// A new resolver: the default one would wait for this very lookup.
		return (&net.Resolver{}).LookupIPAddr(c.Context, host)
	}
	var out []net.IPAddr
	for _, ip := range nodestatus.InternalIPs(node) {
		out = append(out, net.IPAddr{IP: ip.AsSlice(), Zone: ip.Zone()})
	}
	if len(out) == 0 {
		return nil, &net.DNSError{Err: "the node has no internal address", Name: host, IsNotFound: true}
	}
	return out, nil
}
