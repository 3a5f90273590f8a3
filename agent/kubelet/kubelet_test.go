package kubelet

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"

	"brink/internal/testprocess"
)

func plausible(args ...string) Config {
	return Config{
		NodeName:      "node-1",
		NodeIPs:       []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Labels:        []string{"room=kitchen", "floor=2"},
		Taints:        []string{"edge=yes:NoSchedule"},
		ClusterDNS:    []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		ClusterDomain: "cluster.local",
		CRISocket:     "/run/brink/containerd/containerd.sock",
		RootDir:       "/nowhere/kubelet", PodLogsDir: "/nowhere/pod-logs", ManifestDir: "/nowhere/manifests", CertDir: "/nowhere/pki",
		ServingCert: "/nowhere/kubelet.crt", ServingKey: "/nowhere/kubelet.key", ClientCA: "/nowhere/ca.crt",
		ResolvConf: "/etc/resolv.conf",
		Seccomp:    true,
		Args:       args,
	}
}

func TestDefaults(t *testing.T) {
	server, err := serverOptions(plausible())
	if err != nil {
		t.Fatal(err)
	}
	if server.HostnameOverride != "node-1" || server.NodeIP != "" || server.CloudProvider != "external" || server.NodeLabels["room"] != "kitchen" || server.NodeLabels["floor"] != "2" {
		t.Errorf("the node is %q, its addresses %q the kubelet's, with labels %v", server.HostnameOverride, server.NodeIP, server.NodeLabels)
	}
	if taint := (corev1.Taint{Key: "edge", Value: "yes", Effect: corev1.TaintEffectNoSchedule}); !slices.Equal(server.RegisterWithTaints, []corev1.Taint{taint}) {
		t.Errorf("taints are %v", server.RegisterWithTaints)
	}
	if server.ContainerRuntimeEndpoint != "unix:///run/brink/containerd/containerd.sock" || server.CgroupDriver != "cgroupfs" {
		t.Errorf("runtime %q, cgroup driver %q", server.ContainerRuntimeEndpoint, server.CgroupDriver)
	}
	if server.FailCgroupV1 || server.FailSwapOn {
		t.Error("cgroup v1 or swap would end the kubelet")
	}
	if server.MakeIPTablesUtilChains {
		t.Error("the kubelet writes into the host's iptables")
	}
	if got := server.TLSCipherSuites; len(got) == 0 || strings.Contains(strings.Join(got, " "), "_CBC_") || server.TLSMinVersion != "VersionTLS12" {
		t.Errorf("the kubelet's port takes %v from %s on", got, server.TLSMinVersion)
	}
	if !server.KubeletConfiguration.SeccompDefault {
		t.Error("pods that ask for no seccomp profile get none")
	}
	// Who may talk to the kubelet.
	if server.Authentication.Anonymous.Enabled || !server.Authentication.Webhook.Enabled || server.Authorization.Mode != "Webhook" ||
		server.Authentication.X509.ClientCAFile != "/nowhere/ca.crt" || server.ReadOnlyPort != 0 || server.HealthzPort != 0 {
		t.Errorf("the kubelet's port is open: %+v %+v", server.Authentication, server.Authorization)
	}
}

// TestKeptFlags: a flag that would open the kubelet's port, or leave it without
// an API server, is refused; one that says what is so anyhow is not.
func TestKeptFlags(t *testing.T) {
	tests := []struct{ arg, now string }{
		{"anonymous-auth=true", "false"},
		{"anonymous-auth", "false"},
		{"--anonymous_auth=true", "false"},
		{"authentication-token-webhook=false", "true"},
		{"authorization-mode=AlwaysAllow", "Webhook"},
		{"client-ca-file=", "/nowhere/ca.crt"},
		{"tls-cert-file=/tmp/x", "/nowhere/kubelet.crt"},
		{"tls-private-key-file=/tmp/x", "/nowhere/kubelet.key"},
		{"kubeconfig=", "in-memory"},
		{"bootstrap-kubeconfig=/tmp/x", ""},
	}
	for _, tt := range tests {
		t.Run(tt.arg, func(t *testing.T) {
			_, err := New(plausible(tt.arg))
			name := strings.ReplaceAll(strings.TrimLeft(strings.SplitN(tt.arg, "=", 2)[0], "-"), "_", "-")
			if want := "--kubelet-arg=" + name + "="; err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), strconv.Quote(tt.now)) {
				t.Errorf("got %v, want it to begin with %s and to say that it stays at %q", err, want, tt.now)
			}
		})
	}
	if _, err := New(plausible("anonymous-auth=false", "authorization-mode=Webhook")); err != nil {
		t.Errorf("flags that change nothing: %v", err)
	}
}

// TestCheckArgsBeforeJoining: flags are checked before the machine knows its cluster.
func TestCheckArgsBeforeJoining(t *testing.T) {
	before := func(args ...string) Config {
		cfg := plausible(args...)
		cfg.NodeIPs, cfg.ClusterDNS, cfg.ClusterDomain, cfg.ServingCert, cfg.ServingKey = nil, nil, "", "", ""
		return cfg
	}
	if err := CheckArgs(before("max-pods=7")); err != nil {
		t.Error(err)
	}
	for arg, want := range map[string]string{
		"max-pods=many":               "--kubelet-arg=max-pods=many: ",
		"max-pods=-1":                 "checking --kubelet-arg: ",
		"client-ca-file=/tmp/x":       "--kubelet-arg=client-ca-file=/tmp/x: brink keeps this at \"/nowhere/ca.crt\"",
		"tls-cert-file=/tmp/x":        "--kubelet-arg=tls-cert-file=/tmp/x: ",
		"node-labels=kubernetes.io/x": "checking --kubelet-arg and --node-label: ",
	} {
		if err := CheckArgs(before(arg)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want it to begin with %q", arg, err, want)
		}
	}
}

func TestSystemdCgroups(t *testing.T) {
	cfg := plausible()
	cfg.SystemdCgroups = true
	server, err := serverOptions(cfg)
	if err != nil || server.CgroupDriver != "systemd" {
		t.Errorf("cgroup driver %q (%v)", server.CgroupDriver, err)
	}
}

// TestNoSeccomp: where the kernel has none, containerd would refuse all pods.
func TestNoSeccomp(t *testing.T) {
	cfg := plausible()
	cfg.Seccomp = false
	server, err := serverOptions(cfg)
	if err != nil || server.KubeletConfiguration.SeccompDefault {
		t.Errorf("%v, seccomp default %t", err, server.KubeletConfiguration.SeccompDefault)
	}
}

func TestUserWins(t *testing.T) {
	server, err := serverOptions(plausible("max-pods=7", "--fail-swap-on", "eviction_hard=memory.available<1Mi", "node-labels=room=bath", "seccomp-default=false", "tls-cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"))
	if err != nil {
		t.Fatal(err)
	}
	if server.KubeletConfiguration.SeccompDefault {
		t.Error("the user wants no seccomp profile for those who ask for none")
	}
	if got := server.TLSCipherSuites; len(got) != 1 || got[0] != "TLS_RSA_WITH_AES_128_CBC_SHA" {
		t.Errorf("cipher suites are %v, want the user's alone", got)
	}
	if server.MaxPods != 7 || !server.FailSwapOn {
		t.Errorf("max pods %d, fail on swap %t", server.MaxPods, server.FailSwapOn)
	}
	if got := server.EvictionHard; len(got) != 1 || got["memory.available"] != "1Mi" {
		t.Errorf("eviction is %v, want the user's alone", got)
	}
	if got := server.NodeLabels; len(got) != 1 || got["room"] != "bath" {
		t.Errorf("labels are %v, want the user's alone", got)
	}
}

func TestBadArgs(t *testing.T) {
	tests := []struct{ arg, want string }{
		{"nonsense=1", `--kubelet-arg=nonsense=1: there is no flag "nonsense"`},
		{"max-pods=many", "--kubelet-arg=max-pods=many: "},
		{"max-pods=-1", "checking --kubelet-arg: "},
		{"node-labels=kubernetes.io/mine=1", "checking --kubelet-arg and --node-label: "},
		{"config=/nowhere/kubelet.yaml", "reading the kubelet's configuration /nowhere/kubelet.yaml: no such file"},
		{"config-dir=/nowhere", "--kubelet-arg=config-dir=/nowhere: "},
	}
	for _, tt := range tests {
		t.Run(tt.arg, func(t *testing.T) {
			_, err := New(plausible(tt.arg))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line that begins with %q", err, tt.want)
			}
		})
	}
}

// TestBadFeatureGate has a process of its own: gates are process globals, and a
// bad one stays.
func TestBadFeatureGate(t *testing.T) {
	if testprocess.Argument() != "" {
		_, err := New(plausible("feature-gates=NoSuchGate=true"))
		if want := "--kubelet-arg=feature-gates: unrecognized feature gate: NoSuchGate"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		return
	}
	testprocess.MustPass(t, "bad gate")
}

func TestCgroupRoot(t *testing.T) {
	t.Parallel()
	tests := []struct {
		args []string
		want string
	}{
		{nil, ""},
		{[]string{"max-pods=3"}, ""},
		{[]string{"cgroup-root=/edge"}, "/edge"},
		{[]string{"--cgroup-root=/edge"}, "/edge"},
		{[]string{"cgroup_root=/edge"}, "/edge"}, // as the kubelet reads it
		{[]string{"cgroup-root=/a", "max-pods=3", "cgroup-root=/b"}, "/b"},
		{[]string{"cgroup-roots=/edge"}, ""},
	}
	for _, tt := range tests {
		if got := CgroupRoot(tt.args); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.args, got, tt.want)
		}
	}
}

func TestIsReady(t *testing.T) {
	t.Parallel()
	started := time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	condition := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, after time.Duration) corev1.NodeCondition {
		// The API keeps whole seconds.
		return corev1.NodeCondition{Type: kind, Status: status, LastHeartbeatTime: metav1.NewTime(started.Add(after).Truncate(time.Second))}
	}
	tests := []struct {
		name       string
		conditions []corev1.NodeCondition
		want       bool
	}{
		{"no conditions", nil, false},
		{"ready", []corev1.NodeCondition{condition("Ready", "True", time.Minute)}, true},
		{"reported within the second of the start", []corev1.NodeCondition{condition("Ready", "True", 100*time.Millisecond)}, true},
		{"reported by the process before", []corev1.NodeCondition{condition("Ready", "True", -time.Minute)}, false},
		{"not ready", []corev1.NodeCondition{condition("Ready", "False", time.Minute)}, false},
		{"unknown", []corev1.NodeCondition{condition("Ready", "Unknown", time.Minute)}, false},
		{"another condition", []corev1.NodeCondition{condition("DiskPressure", "True", time.Minute)}, false},
		{"among others", []corev1.NodeCondition{condition("DiskPressure", "False", time.Minute), condition("Ready", "True", time.Minute)}, true},
	}
	for _, tt := range tests {
		node := &corev1.Node{Status: corev1.NodeStatus{Conditions: tt.conditions}}
		if got := IsReady(node, started); got != tt.want {
			t.Errorf("%s: got %t", tt.name, got)
		}
	}
}

func TestWaitNode(t *testing.T) {
	t.Parallel()
	client := fake.NewClientset()
	hasRange := func(n *corev1.Node) bool { return n.Spec.PodCIDR != "" }
	found := make(chan *corev1.Node, 1)
	go func() {
		node, err := WaitNode(t.Context(), client, "node-1", hasRange)
		if err != nil {
			t.Error(err)
		}
		found <- node
	}()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	time.Sleep(2 * firstPause) // the fake's watches show no past
	if err := client.Tracker().Add(node); err != nil {
		t.Fatal(err)
	}
	select {
	case <-found:
		t.Fatal("found a node without an address range")
	case <-time.After(2 * firstPause):
	}
	node = node.DeepCopy()
	node.Spec.PodCIDR = "10.42.0.0/24"
	if _, err := client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-found:
		if got.Spec.PodCIDR != "10.42.0.0/24" {
			t.Errorf("got a node with %q", got.Spec.PodCIDR)
		}
	case <-time.After(20 * time.Second):
		t.Error("the node with an address range was not noticed")
	}
}

// TestWaitNodeEndsWithItsContext has an API server that never sends an event.
func TestWaitNodeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	node, err := WaitNode(ctx, client, "node-1", func(*corev1.Node) bool { return true })
	if node != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v", node, err)
	}
}

func TestEnded(t *testing.T) {
	t.Parallel()
	running, stopped := context.Background(), func() context.Context {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		return ctx
	}()
	if err := ended(running, nil); err == nil {
		t.Error("a kubelet that returns by itself without an error has not failed")
	}
	if err := ended(stopped, nil); err != nil {
		t.Errorf("a kubelet that was told to stop: %v", err)
	}
	broken := errors.New("broken")
	if err := ended(running, broken); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
