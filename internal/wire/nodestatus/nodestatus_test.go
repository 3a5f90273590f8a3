package nodestatus

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestParse(t *testing.T) {
	t.Parallel()
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "192.0.2.9"},
		{Type: corev1.NodeInternalIP, Address: "::ffff:192.0.2.1"},
		{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
		{Type: corev1.NodeInternalIP, Address: "till-3"},
		{Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
	}}}
	if got := fmt.Sprint(InternalIPs(node)); got != "[192.0.2.1 2001:db8::1]" {
		t.Errorf("internal addresses are %s", got)
	}
	if got := fmt.Sprint(IPs(node)); got != "[192.0.2.1 198.51.100.1 2001:db8::1]" {
		t.Errorf("addresses are %s", got)
	}
	if _, invalid := Parse(node, corev1.NodeInternalIP); fmt.Sprint(invalid) != "[till-3]" {
		t.Errorf("invalid are %q", invalid)
	}
	if got := IPs(nil); got != nil {
		t.Errorf("no node has %v", got)
	}
}
