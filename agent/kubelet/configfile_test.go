package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
)

const header = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConfigFile: defaults of brink's, the file, its drop-ins, the user's flags, each
// over the one before.
func TestConfigFile(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, filepath.Join(dir, "kubelet.yaml"), header+`
maxPods: 30
podPidsLimit: 99
seccompDefault: false
evictionHard: {memory.available: 7Mi}
imageGCHighThresholdPercent: 70
imageGCLowThresholdPercent: 60
staticPodPath: pods
syncFrequency: 42s
featureGates: {CPUManagerPolicyAlphaOptions: false}
# What kubeadm writes where nothing is said.
containerRuntimeEndpoint: ""
authentication: {anonymous: {enabled: false}, webhook: {cacheTTL: 0s}}
logging: {flushFrequency: 0, options: {json: {infoBufferSize: "0"}}, verbosity: 0}
`)
	writeFile(t, filepath.Join(dir, "d", "20.conf"), header+"maxPods: 32\n")
	writeFile(t, filepath.Join(dir, "d", "10.conf"), header+"maxPods: 31\nimageGCHighThresholdPercent: 80\n")
	writeFile(t, filepath.Join(dir, "d", "readme.txt"), "not for the kubelet")
	cfg := plausible("config="+file, "config-dir="+filepath.Join(dir, "d"), "image-gc-low-threshold=50", "feature-gates=TopologyManagerPolicyAlphaOptions=false")
	cfg.Reserved = []string{"kube-reserved=memory=111Mi", "system-reserved=memory=22Mi", "pod-max-pids=1000"}
	server, err := serverOptions(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := server.KubeletConfiguration
	for what, is := range map[string]bool{
		"a drop-in over another":       c.MaxPods == 32,
		"the file over brink":          c.PodPidsLimit == 99 && !c.SeccompDefault,
		"a drop-in over the file":      c.ImageGCHighThresholdPercent == 80,
		"a flag over the file":         c.ImageGCLowThresholdPercent == 50,
		"a map of the file's alone":    len(c.EvictionHard) == 1 && c.EvictionHard["memory.available"] == "7Mi",
		"a relative path":              c.StaticPodPath == filepath.Join(dir, "pods"),
		"a duration":                   c.SyncFrequency.Duration == 42*time.Second,
		"gates of both":                len(c.FeatureGates) == 2 && !c.FeatureGates["CPUManagerPolicyAlphaOptions"],
		"brink's default":              !c.FailSwapOn && !c.FailCgroupV1 && !c.MakeIPTablesUtilChains && c.HealthzPort == 0 && c.KubeReserved["memory"] == "111Mi",
		"brink's own":                  c.Authentication.Webhook.Enabled && c.Authorization.Mode == kubeletconfig.KubeletAuthorizationModeWebhook && c.ClusterDomain == "cluster.local" && c.PodLogsDir == "/nowhere/pod-logs" && c.TLSCertFile == "/nowhere/kubelet.crt",
		"a default of upstream's":      c.NodeStatusUpdateFrequency.Duration == 10*time.Second,
		"what is no field but a flag":  server.HostnameOverride == "node-1" && server.NodeLabels["room"] == "kitchen",
		"cipher suites without a word": len(c.TLSCipherSuites) > 0,
	} {
		if !is {
			t.Errorf("%s: %+v", what, c)
		}
	}
}

// TestConfigFileReserves: who says in a file what is reserved has thought of both.
func TestConfigFileReserves(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "kubelet.yaml"), header+"kubeReserved: {cpu: 10m}\n")
	cfg := plausible("config=" + file)
	cfg.Reserved = []string{"kube-reserved=memory=111Mi", "system-reserved=memory=22Mi"}
	server, err := serverOptions(cfg)
	if err != nil || len(server.KubeReserved) != 1 || server.KubeReserved["cpu"] != "10m" || len(server.SystemReserved) != 0 {
		t.Errorf("%v %v (%v)", server.KubeReserved, server.SystemReserved, err)
	}
}

func TestConfigFileRefused(t *testing.T) {
	for text, want := range map[string]string{
		header + "clusterDomain: other.local\nauthentication: {anonymous: {enabled: true}, webhook: {enabled: false}}\ncontainerRuntimeEndpoint: unix:///x\nport: 10260\n": "the kubelet's configuration file: brink decides on authentication.anonymous.enabled, authentication.webhook.enabled, containerRuntimeEndpoint, clusterDomain (use --cluster-domain), port (use --kubelet-arg=port=PORT): leave it out",
		header + "clusterDNS: [10.96.0.10]\n":                    "clusterDNS (use --cluster-dns)",
		header + "logging: {format: json}\n":                     "logging.format (use --debug)",
		header + "maxPodz: 3\n":                                  `unknown field "maxPodz"`,
		header + "maxPods: many\n":                               "maxPods",
		header + "maxPods: 3\nmaxPods: 4\n":                      "maxPods",
		header + "featureGates: {GracefulNodeShutdown: false}\n": "depends on features that are disabled",
		header + "maxPods: -3\n":                                 "checking --kubelet-arg",
		header + "---\n" + header + "maxPods: 3\n":               "second document",
		"maxPods: 3\n":                                           "Kind",
		"apiVersion: v1\nkind: Pod\n":                            "Pod",
		header + "maxPods: [\n":                                  "",
		"":                                                       "",
	} {
		file := writeFile(t, filepath.Join(t.TempDir(), "kubelet.yaml"), text)
		_, err := New(plausible("config=" + file))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: got %v, want one line with %q", text, err, want)
		}
	}
}

// TestConfigFileAgrees: what is so anyhow may stand there.
func TestConfigFileAgrees(t *testing.T) {
	file := writeFile(t, filepath.Join(t.TempDir(), "kubelet.yaml"), header+
		"cgroupDriver: cgroupfs\nclusterDomain: cluster.local\nclusterDNS: [10.43.0.10]\nauthorization: {mode: Webhook}\nport: 10250\n"+
		"authentication: {webhook: {enabled: true}, x509: {clientCAFile: /nowhere/ca.crt}}\n")
	if _, err := New(plausible("config=" + file)); err != nil {
		t.Error(err)
	}
}

// TestConfigFileBeforeJoining: what only the cluster can tell is not compared before it
// has been asked, and all else is.
func TestConfigFileBeforeJoining(t *testing.T) {
	const cluster = "clusterDomain: other.local\nclusterDNS: [10.96.0.10]\n"
	for text, want := range map[string]string{
		cluster:                      "",
		cluster + "podLogsDir: /x\n": "brink decides on podLogsDir: leave it out",
	} {
		cfg := plausible("config=" + writeFile(t, filepath.Join(t.TempDir(), "kubelet.yaml"), header+text))
		cfg.ClusterDNS, cfg.ClusterDomain = nil, ""
		if err := CheckArgs(cfg); (err == nil) != (want == "") || err != nil && !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
