package kubelet

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	cloudproviderapi "k8s.io/cloud-provider/api"
)

// TestARefusedNode: the reason is told, which upstream keeps for itself.
func TestARefusedNode(t *testing.T) {
	t.Parallel()
	set := fake.NewClientset()
	answer := error(apierrors.NewForbidden(corev1.Resource("nodes"), "node-1", errors.New("not this address")))
	set.PrependReactor("create", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, answer })
	var told []string
	client := registering{set, registration{func(*corev1.Node) {}, func(err error) { told = append(told, err.Error()) }}}
	for range 2 {
		_, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}, metav1.CreateOptions{})
		if err != answer {
			t.Errorf("got %v", err)
		}
		answer = apierrors.NewAlreadyExists(corev1.Resource("nodes"), "node-1") // is no refusal
	}
	if len(told) != 1 || !strings.Contains(told[0], "not this address") {
		t.Errorf("told %q", told)
	}
}

// TestANodeIsMadeComplete: upstream's taint for a cloud provider would keep pods
// away for ever, and a taint of the user's must stay.
func TestANodeIsMadeComplete(t *testing.T) {
	t.Parallel()
	address := corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}
	client := registering{fake.NewClientset(), registration{complete: func(n *corev1.Node) { n.Status.Addresses = []corev1.NodeAddress{address} }}}
	given := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	given.Spec.Taints = []corev1.Taint{
		{Key: cloudproviderapi.TaintExternalCloudProvider, Value: "true", Effect: corev1.TaintEffectNoSchedule},
		{Key: "edge", Value: "yes", Effect: corev1.TaintEffectNoSchedule},
	}
	if _, err := client.CoreV1().Nodes().Create(t.Context(), given, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	made, err := client.CoreV1().Nodes().Get(t.Context(), "node-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(made.Spec.Taints) != 1 || made.Spec.Taints[0].Key != "edge" {
		t.Errorf("taints %v", made.Spec.Taints)
	}
	if len(made.Status.Addresses) != 1 || made.Status.Addresses[0] != address {
		t.Errorf("addresses %v", made.Status.Addresses)
	}
	if len(given.Spec.Taints) != 2 {
		t.Error("the kubelet's own object was changed")
	}
}

func TestWhoseTheAddressesAre(t *testing.T) {
	for _, tc := range []struct {
		name             string
		args             []string
		first            string
		provider, nodeIP string
	}{
		{"the agent's", nil, "192.0.2.1", "external", ""},
		{"the agent's, IPv6 first", nil, "2001:db8::1", "external", "2001:db8::1"},
		{"a provider's", []string{"cloud-provider=external"}, "192.0.2.1", "external", "192.0.2.1"},
		{"the kubelet's", []string{"--cloud-provider="}, "192.0.2.1", "", "192.0.2.1"},
	} {
		cfg := plausible(tc.args...)
		cfg.NodeIPs = cfg.NodeIPs[:0:0]
		cfg.NodeIPs = append(cfg.NodeIPs, netip.MustParseAddr(tc.first))
		server, err := serverOptions(cfg)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if server.CloudProvider != tc.provider || server.NodeIP != tc.nodeIP {
			t.Errorf("%s: provider %q, address %q", tc.name, server.CloudProvider, server.NodeIP)
		}
	}
}

// TestServingCertificate: given, or asked for.
func TestServingCertificate(t *testing.T) {
	for _, given := range []bool{true, false} {
		cfg := plausible()
		if !given {
			cfg.ServingCert, cfg.ServingKey = "", ""
		}
		server, err := serverOptions(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if server.ServerTLSBootstrap == given {
			t.Errorf("with a certificate %t, the kubelet asks for one: %t", given, server.ServerTLSBootstrap)
		}
	}
}
