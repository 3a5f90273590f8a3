package controlplane

import (
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/kubeapiserver/options"

	"brink/internal/testaddr"
	"brink/internal/wire/nodekey"
)

// claims is a Node with a range and addresses.
func claims(podCIDR string, addresses ...string) *core.Node {
	node := &core.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	if podCIDR != "" {
		node.Spec.PodCIDRs = []string{podCIDR}
	}
	for _, a := range addresses {
		kind, address, _ := strings.Cut(a, " ")
		node.Status.Addresses = append(node.Status.Addresses, core.NodeAddress{Type: core.NodeAddressType(kind), Address: address})
	}
	return node
}

// owned is a Node with the annotation of its owner.
func owned(by string) *core.Node {
	node := claims("10.42.7.0/24")
	node.Annotations = map[string]string{nodekey.NodeAnnotation: by}
	return node
}

// Who changes a Node, and one that has its range.
var (
	byNode       = &user.DefaultInfo{Name: "system:node:n", Groups: []string{user.NodesGroup}}
	byHub        = &user.DefaultInfo{Name: "system:node:hub", Groups: []string{user.NodesGroup}}
	byController = &user.DefaultInfo{Name: "system:serviceaccount:kube-system:node-controller"}
	withRange    = claims("10.42.7.0/24")
)

// claimCases are changes of Nodes that are allowed or refused.
var claimCases = map[string]struct {
	by          user.Info
	was, is     *core.Node
	subresource string
	want        string // "" is allowed
}{
	"registers":                     {byNode, nil, claims("", "InternalIP 192.0.2.7", "Hostname n"), "", ""},
	"registers with a range":        {byNode, nil, claims("10.42.7.0/24"), "", "may not choose the range of its pods"},
	"takes a range before it has":   {byNode, claims(""), withRange, "", "may not choose the range of its pods"},
	"gives its range up":            {byNode, withRange, claims(""), "", "may not choose"},
	"keeps its range":               {byNode, withRange, withRange, "", ""},
	"is given a range":              {byController, claims(""), withRange, "", ""},
	"registers as a pod":            {byNode, nil, claims("", "InternalIP 10.42.1.5"), "", "10.42.0.0/16 has the addresses of pods"},
	"becomes a service":             {byNode, withRange, claims("10.42.7.0/24", "ExternalIP fd43::1"), "status", "fd43::/112"},
	"becomes an IPv4-mapped pod":    {byNode, withRange, claims("10.42.7.0/24", "InternalIP ::ffff:10.42.1.5"), "status", "10.42.0.0/16"},
	"becomes everybody's loopback":  {byNode, withRange, claims("10.42.7.0/24", "InternalIP 127.0.0.1"), "status", "cannot send to it"},
	"has a name for an address":     {byNode, withRange, claims("10.42.7.0/24", "InternalIP peer"), "status", "not an IP address"},
	"becomes everybody":             {byNode, withRange, claims("10.42.7.0/24", "InternalIP 255.255.255.255"), "status", "cannot send to it"},
	"becomes everybody, mapped":     {byNode, withRange, claims("10.42.7.0/24", "InternalIP ::ffff:255.255.255.255"), "status", "cannot send to it"},
	"becomes this network":          {byNode, withRange, claims("10.42.7.0/24", "InternalIP 0.0.0.1"), "status", "cannot send to it"},
	"becomes a group":               {byNode, withRange, claims("10.42.7.0/24", "InternalIP 239.1.2.3"), "status", "cannot send to it"},
	"becomes the server's machine":  {byNode, withRange, claims("10.42.7.0/24", "InternalIP 192.168.1.1"), "status", "it is the server's"},
	"and by an outer address":       {byNode, withRange, claims("10.42.7.0/24", "ExternalIP 192.168.1.1"), "status", "it is the server's"},
	"the server has its address":    {byHub, withRange, claims("10.42.7.0/24", "InternalIP 192.168.1.1"), "status", ""},
	"becomes another node":          {byNode, withRange, claims("10.42.7.0/24", "InternalIP 192.0.2.9"), "status", "node owner speaks from there"},
	"is called as another":          {byNode, withRange, claims("10.42.7.0/24", "Hostname hub"), "status", `its own name as Hostname can only be "n"`},
	"is called by an address":       {byNode, withRange, claims("10.42.7.0/24", "Hostname 192.168.1.1"), "status", "its own name"},
	"has another's DNS name":        {byNode, withRange, claims("10.42.7.0/24", "InternalDNS hub"), "status", "its own name"},
	"has another's outer DNS name":  {byNode, withRange, claims("10.42.7.0/24", "ExternalDNS hub.example.org"), "status", "its own name"},
	"has its own DNS name":          {byNode, withRange, claims("10.42.7.0/24", "InternalDNS n"), "status", ""},
	"has a name of its own kind":    {byNode, withRange, claims("10.42.7.0/24", "Pigeon hub"), "status", "its own name"},
	"is given a name":               {byController, withRange, claims("10.42.7.0/24", "Hostname hub"), "status", ""},
	"has a zone":                    {byNode, withRange, claims("10.42.7.0/24", "ExternalIP fd43::1%eth0"), "status", "not an IP address"},
	"becomes the server":            {byNode, withRange, claims("10.42.7.0/24", "InternalIP 203.0.113.1"), "status", "it is the server's"},
	"is behind the server's router": {byNode, withRange, claims("10.42.7.0/24", "ExternalIP 203.0.113.1"), "status", ""},
	"is the server":                 {byHub, withRange, claims("10.42.7.0/24", "InternalIP 203.0.113.1"), "status", ""},
	"says whose it is":              {byNode, withRange, owned("a"), "", ""},
	"says so again":                 {byNode, owned("a"), owned("a"), "", ""},
	"is an earlier machine":         {byNode, owned("a"), owned("b"), "", "another machine's"},
	"has it by its status":          {byNode, owned("a"), owned("b"), "status", "another machine's"},
	"is nobody's any more":          {byNode, owned("a"), withRange, "", "another machine's"},
	"is given away":                 {byController, owned("a"), owned("b"), "", ""},
	"moves":                         {byNode, withRange, claims("10.42.7.0/24", "InternalIP 192.0.2.8"), "status", ""},
	"keeps an earlier address":      {byNode, claims("", "InternalIP 10.42.1.5"), claims("", "InternalIP 10.42.1.5"), "status", ""},
	"is placed by a controller":     {byController, withRange, claims("10.42.7.0/24", "InternalIP 10.42.1.5"), "status", ""},
}

func TestNodeClaims(t *testing.T) {
	opts := options.NewAdmissionOptions()
	useNodeClaims(opts, Config{
		ClusterCIDRs: testaddr.Prefixes("10.42.0.0/16"), ServiceCIDRs: testaddr.Prefixes("fd43::/112"),
		OwnNode: "hub", OwnIPs: []netip.Addr{netip.MustParseAddr("192.168.1.1")}, OuterIPs: []netip.Addr{netip.MustParseAddr("203.0.113.1")},
		HolderOf: func(ip netip.Addr, except string) string {
			if ip.String() == "192.0.2.9" && except != "owner" {
				return "owner"
			}
			return ""
		},
	})
	plugin, err := opts.GenericAdmission.Plugins.InitPlugin(nodeClaimsPlugin, nil, admission.PluginInitializers{})
	if err != nil {
		t.Fatal(err)
	}
	checks := plugin.(admission.ValidationInterface)
	for name, c := range claimCases {
		t.Run(name, func(t *testing.T) {
			operation, old := admission.Create, runtime.Object(nil)
			if c.was != nil {
				operation, old = admission.Update, c.was
			}
			attributes := admission.NewAttributesRecord(c.is, old, core.SchemeGroupVersion.WithKind("Node"), "", "n",
				core.SchemeGroupVersion.WithResource("nodes"), c.subresource, operation, nil, false, c.by)
			err := checks.Validate(t.Context(), attributes, nil)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want it to say %q", err, c.want)
			}
		})
	}
}
