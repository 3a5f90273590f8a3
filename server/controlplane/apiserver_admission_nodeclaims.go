package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
	"k8s.io/kubernetes/pkg/kubeapiserver/options"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"

	"brink/internal/wire/nodekey"
	"brink/network/nodeaddr"
	"brink/server/noderecord"
)

// nodeClaimsPlugin is the name of the admission plugin of nodeClaims.
const nodeClaimsPlugin = "BrinkNodeClaims"

// nodeClaims is the admission plugin that refuses claims of a node about itself which would
// lead the traffic of others to it. Upstream's NodeRestriction allows them: peers route a
// range of pods to the node that has it in its spec, and the API server sends to a node's
// addresses what is meant for pods in the node's host network. NodeRestriction lets a node
// write its addresses, and its range as long as the cluster has not given it one. The
// annotation with the node's owner cannot be changed either: an earlier owner of the name
// may still hold a certificate.
//
// It is compiled in and not a ValidatingAdmissionPolicy, which is an object that can be
// deleted and does not exist yet when the first node registers.
type nodeClaims struct {
	*admission.Handler
	nodes    nodeidentifier.NodeIdentifier
	notNodes []netip.Prefix // ranges without nodes: pods and services
	ownNode  string
	own      []netip.Addr // the server's addresses, which no other node may claim
	outer    []netip.Addr // those by which it is reached from outside
	holder   func(ip netip.Addr, except string) string
}

var _ admission.ValidationInterface = &nodeClaims{}

// useNodeClaims puts the plugin after NodeRestriction, and turns both on unless the user
// turns them off by name: upstream leaves NodeRestriction out when enable-admission-plugins
// names others.
func useNodeClaims(opts *options.AdmissionOptions, cfg Config) {
	addPlugin(opts, nodeClaimsPlugin, noderestriction.PluginName, func() admission.Interface {
		return &nodeClaims{
			Handler:  admission.NewHandler(admission.Create, admission.Update),
			nodes:    nodeidentifier.NewDefaultNodeIdentifier(),
			notNodes: slices.Concat(cfg.ClusterCIDRs, cfg.ServiceCIDRs),
			ownNode:  cfg.OwnNode,
			own:      cfg.OwnIPs,
			outer:    cfg.OuterIPs,
			holder:   cfg.HolderOf,
		}
	})
	generic := opts.GenericAdmission
	generic.DefaultOffPlugins = generic.DefaultOffPlugins.Clone().Delete(noderestriction.PluginName)
}

// Validate implements admission.ValidationInterface.
func (p *nodeClaims) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != core.Resource("nodes") || a.GetSubresource() != "" && a.GetSubresource() != "status" {
		return nil
	}
	name, isNode := p.nodes.NodeIdentity(a.GetUserInfo())
	if !isNode {
		return nil
	}
	is, ok := a.GetObject().(*core.Node)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	was, ok := a.GetOldObject().(*core.Node)
	if !ok {
		was = &core.Node{} // it is being created
	}
	if !slices.Equal(is.Spec.PodCIDRs, was.Spec.PodCIDRs) {
		return admission.NewForbidden(a, fmt.Errorf("node %q may not choose the range of its pods, %v: the cluster gives it one", name, is.Spec.PodCIDRs))
	}
	if owner := was.Annotations[nodekey.NodeAnnotation]; owner != "" && is.Annotations[nodekey.NodeAnnotation] != owner {
		return admission.NewForbidden(a, fmt.Errorf("node %q is another machine's: kubectl delete node %s frees the name", name, name))
	}
	for _, address := range is.Status.Addresses {
		if slices.Contains(was.Status.Addresses, address) {
			continue
		}
		if err := p.check(ctx, name, address); err != nil {
			return admission.NewForbidden(a, fmt.Errorf("node %q may not claim the address %s: %w", name, address.Address, err))
		}
	}
	return nil
}

// check returns why a node cannot have an address, nil if it can. The server's outer address
// may be that of a site's router, by which other nodes are reached from outside too.
func (p *nodeClaims) check(ctx context.Context, node string, address core.NodeAddress) error {
	if address.Type != core.NodeInternalIP && address.Type != core.NodeExternalIP {
		if address.Address != node {
			return fmt.Errorf("its own name as %s can only be %q", address.Type, node)
		}
		return nil
	}
	ip, err := netip.ParseAddr(address.Address)
	if err != nil || ip.Zone() != "" {
		return errors.New("it is not an IP address")
	}
	ip = ip.Unmap()
	if address.Type == core.NodeInternalIP && node != p.ownNode && slices.Contains(p.outer, ip) {
		return errors.New("it is the server's")
	}
	if err := nodeaddr.Check(ip, p.notNodes); err != nil || node == p.ownNode {
		return err
	}
	return p.checkOthers(noderecord.From(ctx), node, ip)
}

// checkOthers refuses an address that another node or the server has, as far as that is
// known, unless the node speaks from the address. At another site the same private address
// belongs to another machine.
func (p *nodeClaims) checkOthers(from netip.Addr, node string, ip netip.Addr) error {
	isElsewhere := from.IsValid() && !from.IsPrivate() && !slices.Contains(p.own, from) && !slices.Contains(p.outer, from)
	switch {
	case from == ip, isElsewhere && ip.IsPrivate():
		return nil
	case slices.Contains(p.own, ip):
		return errors.New("it is the server's")
	case p.holder == nil:
		return nil
	}
	if other := p.holder(ip, node); other != "" {
		return fmt.Errorf("node %s speaks from there", other)
	}
	return nil
}
