package controlplane

import (
	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/kubernetes/pkg/controlplane"
)

// dial makes the API server's connections to nodes and pods go through a.dialer, as upstream
// makes them go through an egress selector. An egress selector of the user takes precedence.
func (a *apiServer) dial(kube *controlplane.Config, generic *genericConfig) {
	if a.dialer == nil || kube.ControlPlane.Generic.EgressSelector != nil {
		return
	}
	core := generic.informers.Core().V1()
	a.names = nodeNames{nodes: core.Nodes().Lister(), pods: core.Pods().Lister()}
	for _, kind := range kube.Extra.KubeletClientConfig.PreferredAddressTypes {
		a.names.types = append(a.names.types, corev1.NodeAddressType(kind))
	}
	a.dialer.Use(a.names.nodes, a.names.pods)
	kube.Extra.KubeletClientConfig.Lookup = func(egressselector.NetworkContext) (utilnet.DialFunc, error) {
		return directly(a.dialer.DialKubelet), nil
	}
	// The transport is changed in place and not replaced: admission has a reference to it
	// already, and takes its dialer at each first call of a webhook. The aggregator takes
	// the dialer from it too.
	kube.ControlPlane.ProxyTransport.DialContext = directly(a.dialer.DialPod)
	kube.ControlPlane.ProxyTransport.Proxy = nil // it is for nodes, pods and Services
}
