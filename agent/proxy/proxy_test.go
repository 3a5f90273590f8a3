package proxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/cmd/kube-proxy/app"
	proxyconfig "k8s.io/kubernetes/pkg/proxy/apis/config"

	"brink/internal/testaddr"
	"brink/internal/testprocess"
)

func plausible(args ...string) Config {
	return Config{
		NodeName:     "node-1",
		NodeIPs:      testaddr.Addrs("192.0.2.1"),
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/56")},
		Args:         args,
	}
}

// TestConfigOf notices when upstream moves the field that flags are parsed into.
func TestConfigOf(t *testing.T) {
	opts := app.NewOptions()
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	opts.AddFlags(fs)
	if err := fs.Parse([]string{"--proxy-mode=nftables", "--iptables-masquerade-bit=7"}); err != nil {
		t.Fatal(err)
	}
	config := configOf(opts)
	if bit := config.IPTables.MasqueradeBit; config.Mode != "nftables" || bit == nil || *bit != 7 {
		t.Errorf("what the flags set is not there: mode %q, bit %v", config.Mode, bit)
	}
}

func TestDefaults(t *testing.T) {
	config, err := parse(plausible())
	if err != nil {
		t.Fatal(err)
	}
	if config.Mode != proxyconfig.ProxyModeNFTables {
		t.Errorf("mode is %q", config.Mode)
	}
	if got := config.DetectLocal.ClusterCIDRs; !slices.Equal(got, []string{"10.42.0.0/16", "fd42::/56"}) {
		t.Errorf("pods are known by %q", got)
	}
	if config.HostnameOverride != "node-1" || config.HealthzBindAddress != "0.0.0.0:10256" || config.MetricsBindAddress != "" {
		t.Errorf("name %q, health on %q, metrics on %q", config.HostnameOverride, config.HealthzBindAddress, config.MetricsBindAddress)
	}
}

func TestUserWins(t *testing.T) {
	config, err := parse(plausible("cluster-cidr=10.50.0.0/16", "--healthz-bind-address=127.0.0.1:1", "masquerade-all", "metrics-bind-address=127.0.0.1:2"))
	if err != nil {
		t.Fatal(err)
	}
	if got := config.DetectLocal.ClusterCIDRs; !slices.Equal(got, []string{"10.50.0.0/16"}) {
		t.Errorf("pods are known by %q", got)
	}
	if config.HealthzBindAddress != "127.0.0.1:1" || config.MetricsBindAddress != "127.0.0.1:2" || !config.Linux.MasqueradeAll {
		t.Errorf("health on %q, metrics on %q, masquerade all is %t", config.HealthzBindAddress, config.MetricsBindAddress, config.Linux.MasqueradeAll)
	}
}

func TestBadArgs(t *testing.T) {
	tests := []struct{ arg, want string }{
		{"nonsense=1", `--kube-proxy-arg=nonsense=1: there is no flag "nonsense"`},
		{"proxy-mode=iptables", "--kube-proxy-arg=proxy-mode=iptables: brink serves Services by nftables only"},
		{"proxy-mode=ipvs", "--kube-proxy-arg=proxy-mode=ipvs: brink serves Services by nftables only"},
		{"proxy-mode=nonsense", "checking --kube-proxy-arg: "},
		{"cluster-cidr=nonsense", "checking --kube-proxy-arg: "},
		{"conntrack-max-per-core=many", "--kube-proxy-arg=conntrack-max-per-core=many: "},
		{"config=/etc/kube-proxy.yaml", "--kube-proxy-arg: config is not taken"},
	}
	for _, tt := range tests {
		t.Run(tt.arg, func(t *testing.T) {
			_, err := New(plausible(tt.arg))
			for _, err := range []error{err, CheckArgs([]string{tt.arg})} {
				if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want one line that begins with %q", err, tt.want)
				}
			}
		})
	}
	if err := CheckArgs([]string{"masquerade-all"}); err != nil {
		t.Errorf("a good flag before the cluster is known: %v", err)
	}
}

// TestBadFeatureGate has a process of its own: gates are process globals, and a
// bad one stays.
func TestBadFeatureGate(t *testing.T) {
	if testprocess.Argument() != "" {
		_, err := New(plausible("feature-gates=NoSuchGate=true"))
		if want := "checking --kube-proxy-arg: unrecognized feature gate: NoSuchGate"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		return
	}
	testprocess.MustPass(t, "bad gate")
}

func TestFamilies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		ips     []netip.Addr
		primary corev1.IPFamily
		v4, v6  string
	}{
		{nil, corev1.IPv4Protocol, "127.0.0.1", "::1"},
		{testaddr.Addrs("192.0.2.1"), corev1.IPv4Protocol, "192.0.2.1", "::1"},
		{testaddr.Addrs("2001:db8::1"), corev1.IPv6Protocol, "127.0.0.1", "2001:db8::1"},
		{testaddr.Addrs("192.0.2.1", "2001:db8::1"), corev1.IPv4Protocol, "192.0.2.1", "2001:db8::1"},
		{testaddr.Addrs("2001:db8::1", "192.0.2.1"), corev1.IPv6Protocol, "192.0.2.1", "2001:db8::1"},
	}
	for _, tt := range tests {
		primary, ips := families(tt.ips)
		v4, v6 := ips[corev1.IPv4Protocol].String(), ips[corev1.IPv6Protocol].String()
		if primary != tt.primary || v4 != tt.v4 || v6 != tt.v6 {
			t.Errorf("%v: got %s, %s, %s, want %s, %s, %s", tt.ips, primary, v4, v6, tt.primary, tt.v4, tt.v6)
		}
	}
}

func TestResolvePrimary(t *testing.T) {
	t.Parallel()
	tests := []struct {
		given []string
		ips   []netip.Addr
		want  []string
	}{
		{[]string{"primary"}, testaddr.Addrs("192.0.2.1"), []string{"192.0.2.1/32"}},
		{[]string{"primary"}, testaddr.Addrs("192.0.2.1", "2001:db8::1"), []string{"192.0.2.1/32", "2001:db8::1/128"}},
		{[]string{"198.51.100.0/24"}, testaddr.Addrs("192.0.2.1"), []string{"198.51.100.0/24"}},
		{nil, testaddr.Addrs("192.0.2.1"), nil},
	}
	for _, tt := range tests {
		config := &proxyconfig.KubeProxyConfiguration{NodePortAddresses: tt.given}
		resolvePrimary(config, tt.ips)
		if !slices.Equal(config.NodePortAddresses, tt.want) {
			t.Errorf("%q on %v: got %q, want %q", tt.given, tt.ips, config.NodePortAddresses, tt.want)
		}
	}
}

// TestNodePortsOfANode: upstream's default is the word that resolvePrimary
// looks for.
func TestNodePortsOfANode(t *testing.T) {
	config, err := parse(plausible())
	if err != nil {
		t.Fatal(err)
	}
	resolvePrimary(config, testaddr.Addrs("192.0.2.1"))
	if got := config.NodePortAddresses; !slices.Equal(got, []string{"192.0.2.1/32"}) {
		t.Errorf("NodePorts are served on %q", got)
	}
}

func TestLocalDetectors(t *testing.T) {
	t.Parallel()
	local := localDetectors([]netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")})
	if v4 := local[corev1.IPv4Protocol]; !v4.IsImplemented() || !slices.Contains(v4.IfLocalNFT(), "10.42.0.0/16") {
		t.Errorf("IPv4 traffic of pods is told by %q", v4.IfLocalNFT())
	}
	if v6 := local[corev1.IPv6Protocol]; v6 == nil || v6.IsImplemented() {
		t.Error("without an IPv6 range there is no telling IPv6 traffic of pods")
	}
}
