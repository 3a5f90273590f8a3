package kubelet

import (
	"fmt"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"

	"brink/internal/ciphers"
	"brink/internal/commas"
	"brink/internal/componentargs"
	"brink/internal/layout"
)

func serverOptions(cfg Config) (*options.KubeletServer, error) {
	flags := options.NewKubeletFlags()
	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, err
	}
	apply(cfg, flags, config)
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	flags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, config)
	kept := valuesOf(fs, keptFlags)
	if err := componentargs.Parse(fs, "kubelet-arg", defaults(cfg), cfg.Args); err != nil {
		return nil, err
	}
	if err := checkKept(fs, kept); err != nil {
		return nil, err
	}
	if err := mergeFilesAndFlags(cfg, flags, config); err != nil {
		return nil, err
	}
	if cfg.CgroupRoot != "" {
		config.CgroupRoot = cfg.CgroupRoot
	}
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(config.FeatureGates); err != nil {
		return nil, fmt.Errorf("--kubelet-arg=feature-gates: %w", err)
	}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		// Upstream explains labels in two lines.
		return nil, fmt.Errorf("checking --kubelet-arg and --node-label: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if err := validation.ValidateKubeletConfiguration(config, utilfeature.DefaultFeatureGate); err != nil {
		return nil, fmt.Errorf("checking --kubelet-arg: %w", err)
	}
	return &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *config}, nil
}

// defaults returns brink's settings as flags, so that the user's flags replace them.
func defaults(cfg Config) []string {
	args := []string{
		"hostname-override=" + cfg.NodeName,
		"root-dir=" + cfg.RootDir,
		"cert-dir=" + cfg.CertDir,
		"pod-manifest-path=" + cfg.ManifestDir,
		"container-runtime-endpoint=unix://" + cfg.CRISocket,
		"cluster-domain=" + cfg.ClusterDomain,
		"cluster-dns=" + commas.Join(cfg.ClusterDNS),
		"resolv-conf=" + cfg.ResolvConf,
		"fail-swap-on=false",
		"tls-cipher-suites=" + ciphers.Names(),
		"tls-min-version=VersionTLS12",
		"healthz-port=0",
		"read-only-port=0",
		// Boards with cgroup v1 still exist. Upstream refuses them by default.
		"fail-cgroupv1=false",
		// The kubelet's chains in the host's iptables, which it restores every minute,
		// are hints for other programs and one guard: of the host's loopback against
		// packets from outside, which route_localnet lets in. kube-proxy sets that only
		// in its iptables mode; for the bridge, where portmap sets it, network has a
		// guard of its own.
		"make-iptables-util-chains=false",
		// The defaults of 10 and 15 percent are gigabytes of a large card.
		"eviction-hard=imagefs.available<5%,nodefs.available<5%,memory.available<100Mi,nodefs.inodesFree<5%",
		"eviction-minimum-reclaim=imagefs.available=10%,nodefs.available=10%",
	}
	args = append(args, addressFlags(cfg)...)
	args = append(args, openFilesFlags()...)
	args = append(args, cfg.Reserved...)
	if cfg.SystemdCgroups {
		args = append(args, "cgroup-driver=systemd")
	} else {
		args = append(args, "cgroup-driver=cgroupfs")
	}
	if len(cfg.Labels) > 0 {
		args = append(args, "node-labels="+strings.Join(cfg.Labels, ","))
	}
	if len(cfg.Taints) > 0 {
		args = append(args, "register-with-taints="+strings.Join(cfg.Taints, ","))
	}
	return args
}

// openFilesFlags keeps the kubelet from changing the limit of the whole process, which is
// set at its start. Upstream's number may be less, or more than is allowed, which it logs
// as an error.
func openFilesFlags() []string {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Max > math.MaxInt64 {
		return nil
	}
	return []string{"max-open-files=" + strconv.FormatUint(limit.Max, 10)}
}

// keptFlags are set by apply and must stay as they are: who may talk to the kubelet, by
// which certificates, and that there is an API server.
var keptFlags = []string{
	"anonymous-auth", "authentication-token-webhook", "authorization-mode", "client-ca-file",
	"tls-cert-file", "tls-private-key-file", "kubeconfig", "bootstrap-kubeconfig",
}

func valuesOf(fs *pflag.FlagSet, names []string) map[string]string {
	out := map[string]string{}
	for _, name := range names {
		out[name] = fs.Lookup(name).Value.String()
	}
	return out
}

// checkKept refuses other values of keptFlags: a user who set one relies on it.
func checkKept(fs *pflag.FlagSet, kept map[string]string) error {
	for _, name := range keptFlags {
		if got := fs.Lookup(name).Value.String(); got != kept[name] {
			return fmt.Errorf("--kubelet-arg=%s=%s: brink keeps this at %q, as the server's trust in its nodes depends on it: leave it out", name, got, kept[name])
		}
	}
	return nil
}

// apply sets what has no flag, or what no flag may change (see keptFlags).
func apply(cfg Config, flags *options.KubeletFlags, config *kubeletconfig.KubeletConfiguration) {
	// Not a path: upstream only learns from it that there is an API server. It gets
	// clients that are made already.
	flags.KubeConfig = "in-memory"
	config.Authentication.Anonymous.Enabled = false
	config.Authentication.Webhook.Enabled = true
	config.Authentication.X509.ClientCAFile = cfg.ClientCA
	config.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	config.TLSCertFile, config.TLSPrivateKeyFile = cfg.ServingCert, cfg.ServingKey
	config.ServerTLSBootstrap = cfg.ServingCert == ""
	config.PodLogsDir = cfg.PodLogsDir
	config.VolumePluginDir = filepath.Join(cfg.RootDir, layout.FlexVolumes)
	config.MemorySwap.SwapBehavior = "NoSwap"
	config.EnableServer = true
	// Upstream runs pods that request no profile without one, for clusters that are
	// older than this setting.
	config.SeccompDefault = cfg.Seccomp
}
