package tunnel

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestClaimsAreNotBelieved: what a node says draws nobody's traffic to it.
func TestClaimsAreNotBelieved(t *testing.T) {
	t.Parallel()
	mirror := hostPod("n2", 8443)
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	over := hostPod("n2", 8443)
	over.Status.Phase = corev1.PodFailed
	inPodNetwork := hostPod("n2", 8443)
	inPodNetwork.Spec.HostNetwork = false
	sidecar := hostPod("n2", 8443)
	sidecar.Spec.InitContainers, sidecar.Spec.Containers = sidecar.Spec.Containers, nil
	setup := sidecar.DeepCopy()
	always := corev1.ContainerRestartPolicyAlways
	sidecar.Spec.InitContainers[0].RestartPolicy = &always
	const inside, outside = "10.77.0.2", "198.51.100.1"
	for name, tc := range map[string]struct {
		claims, from string
		pod          *corev1.Pod
		want         string
	}{
		"a neighbour's address":                         {"10.77.0.254", inside, nil, ""},
		"a neighbour's, with a pod there":               {"10.77.0.254", inside, hostPod("n2", 8443), ""},
		"a neighbour's, from outside, with a pod there": {"10.77.0.254", outside, hostPod("n2", 8443), ""},
		"its own":                                          {inside, inside, nil, "n2"},
		"an address of the world":                          {"8.8.8.8", outside, hostPod("n2", 8443), ""},
		"one that is far, without a pod":                   {"192.168.1.10", outside, nil, ""},
		"one that is far, with a pod":                      {"192.168.1.10", outside, hostPod("n2", 0), "n2"},
		"one that is far, with another node's":             {"192.168.1.10", outside, hostPod("n3", 8443), ""},
		"from inside, with a pod":                          {"192.168.1.10", inside, hostPod("n2", 0), ""},
		"from inside, with a pod that has another port":    {"192.168.1.10", inside, hostPod("n2", 9100), ""},
		"from inside, with a pod that has the port":        {"192.168.1.10", inside, hostPod("n2", 8443), "n2"},
		"with a sidecar that has it":                       {"192.168.1.10", inside, sidecar, "n2"},
		"with an init container that had it":               {"192.168.1.10", inside, setup, ""},
		"with a pod of its own making":                     {"192.168.1.10", outside, mirror, ""},
		"with a pod that has ended":                        {"192.168.1.10", outside, over, ""},
		"with a pod of the pod network":                    {"192.168.1.10", outside, inPodNetwork, ""},
		"through the server's own address, with no port":   {"192.168.1.10", "203.0.113.1", hostPod("n2", 0), ""},
		"without a tunnel, by a pod that declares nothing": {"192.168.1.10", "", hostPod("n2", 0), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := claimingServer(t, tc.claims, tc.from, tc.pod).holder(netip.MustParseAddr(tc.claims), "8443")
			if got != tc.want || err != nil {
				t.Errorf("%q, %v, want %q", got, err, tc.want)
			}
		})
	}
}

// claimingServer returns a server on 10.77.0.0/24 whose node n2 claims an address. It has a
// tunnel from there, unless that is "", and there may be a pod.
func claimingServer(t *testing.T, claims, from string, pod *corev1.Pod) *Server {
	lan := netip.MustParsePrefix("10.77.0.0/24")
	s := New(Config{InNetwork: lan.Contains, OwnIPs: []netip.Addr{netip.MustParseAddr("203.0.113.1")}})
	pods := podList{}
	if pod != nil {
		pods = podList{pod}
	}
	s.Use(nodeList{nodes: []*corev1.Node{node("n1", "10.77.0.1"), node("n2", claims), node("n3", "10.77.0.3")}}, pods)
	if from != "" {
		s.fakeTunnelFrom(t, "n2", from)
	}
	return s
}

// TestAgentsHaveTunnels: an agent is not looked for where it says that it is.
func TestAgentsHaveTunnels(t *testing.T) {
	t.Parallel()
	here := listening(t)
	port := here.String()[len("127.0.0.1"):]
	s := New(Config{Patience: 10 * time.Millisecond, IsAgent: func(name string) bool { return name == "agent" }})
	s.Use(nodeList{nodes: []*corev1.Node{node("agent", "127.0.0.1"), node("other", "127.0.0.1")}}, nil)
	if conn, err := s.DialKubelet(t.Context(), "tcp", "other"+port); err != nil {
		t.Errorf("a node that is none of brink: %v", err)
	} else {
		conn.Close()
	}
	const want = "reaching node agent: it has no tunnel to this server"
	if _, err := s.DialKubelet(t.Context(), "tcp", "agent"+port); err == nil || err.Error() != want {
		t.Errorf("its kubelet: %v, want %s", err, want)
	}
	if _, err := s.DialPod(t.Context(), "tcp", "agent"+port); err == nil || err.Error() != want {
		t.Errorf("its ports: %v, want %s", err, want)
	}
}

func TestHolder(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	s.Use(nodeList{nodes: []*corev1.Node{node("n1", "10.77.0.1"), node("n2", "10.77.0.2"), node("site", "192.168.1.10")}}, nil)
	s.fakeTunnelFrom(t, "n1", "10.77.0.1")
	s.fakeTunnelFrom(t, "site", "203.0.113.9")
	for _, tc := range []struct{ ip, except, want string }{
		{"10.77.0.1", "n2", "n1"},
		{"10.77.0.1", "n1", ""},   // itself
		{"10.77.0.2", "n1", ""},   // it does not speak
		{"203.0.113.9", "n1", ""}, // a router's
		{"192.168.1.10", "n1", ""},
	} {
		if got := s.Holder(netip.MustParseAddr(tc.ip), tc.except); got != tc.want {
			t.Errorf("%s has %q, want %q", tc.ip, got, tc.want)
		}
	}
}
