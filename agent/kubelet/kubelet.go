// Package kubelet embeds the kubelet. It imports k8s.io/kubernetes, which costs
// minutes to compile and carries process globals; nothing else of the agent
// but the service proxy does.
//
// The upstream command is not used: it installs signal handlers and applies
// logging. Its options are, so every kubelet flag is there under its own name.
// How to reach the API server is a parameter: in memory beside a server, TLS
// from an agent.
package kubelet

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"k8s.io/kubernetes/pkg/kubelet/util"

	"brink/internal/ciphers"
	"brink/internal/componentargs"
	"brink/internal/lifecycle"
)

// stopTimeout is short: the kubelet leaves its pods running and only has to
// end its loops.
const stopTimeout = 5 * time.Second

// Config says what kind of node this is.
type Config struct {
	NodeName string
	// NodeIPs are those of now. What the Node says about its addresses is not
	// the kubelet's: see Register and OwnsAddresses.
	NodeIPs []netip.Addr
	// Offline is a start without a server, who would know the Node.
	Offline bool
	// Register completes the Node before it is made: with its addresses.
	Register func(*corev1.Node)
	// Refused is told why the API server does not take it.
	Refused func(error)
	// Labels and Taints are given to the node when it registers, in the form
	// of the kubelet's flags: key=value and key=value:Effect.
	Labels, Taints []string

	ClusterDNS    []netip.Addr
	ClusterDomain string

	// API reaches the API server as this node.
	API *rest.Config
	// Reconnect is called when heartbeats fail: connections may have died with
	// a lost link. Nil closes those of API that are idle.
	Reconnect func()
	// Saw is told the uid of each pod before the kubelet hears of it.
	Saw func(uid string)
	// CRISocket is containerd's socket, an absolute path.
	CRISocket string

	// RootDir, PodLogsDir, ManifestDir and CertDir are created by the kubelet.
	RootDir, PodLogsDir, ManifestDir, CertDir string
	// ServingCert and ServingKey are used, and read again when they change. With
	// none the kubelet asks the cluster for a certificate, keeps it in CertDir and
	// renews it. ClientCA verifies who calls.
	ServingCert, ServingKey, ClientCA string

	// SystemdCgroups selects the systemd cgroup driver instead of cgroupfs.
	SystemdCgroups bool
	// Seccomp gives pods that ask for no profile the runtime's.
	Seccomp bool
	// Reserved are flags about what pods may not have of the machine.
	Reserved []string
	// ResolvConf is what pods with dnsPolicy Default get.
	ResolvConf string

	Args []string // --kubelet-arg
}

// New parses and validates all flags; nothing is started.
func New(cfg Config) (lifecycle.Component, error) {
	server, err := serverOptions(cfg)
	if err != nil {
		return lifecycle.Component{}, err
	}
	run := func(ctx context.Context, ready func()) error { return run(ctx, cfg, server, ready) }
	return lifecycle.Component{Name: "kubelet", Run: run, StopTimeout: stopTimeout}, nil
}

// CgroupRoot is where all pods' cgroups lie, after flags; "" is the root.
func CgroupRoot(args []string) string {
	root := ""
	for _, arg := range args {
		if _, value, ok := strings.Cut(arg, "="); ok && componentargs.Name(arg) == "cgroup-root" {
			root = value
		}
	}
	return root
}

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
	if err := overFiles(cfg, flags, config); err != nil {
		return nil, err
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

// overFiles lets the user's files have their say, and the user's flags the last one:
// those in config are parsed once more, as upstream does.
func overFiles(cfg Config, flags *options.KubeletFlags, config *kubeletconfig.KubeletConfiguration) error {
	if flags.KubeletConfigFile != "" || flags.KubeletDropinConfigDirectory != "" {
		without, err := withDefaults(cfg)
		if err != nil {
			return err
		}
		*config = *without
		if err := useFiles(config, flags); err != nil {
			return err
		}
		gates := config.FeatureGates
		fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
		options.NewKubeletFlags().AddFlags(fs)
		options.AddKubeletConfigFlags(fs, config)
		if err := componentargs.Parse(fs, "kubelet-arg", nil, cfg.Args); err != nil {
			return err
		}
		for gate, on := range gates {
			if _, ok := config.FeatureGates[gate]; !ok {
				config.FeatureGates[gate] = on
			}
		}
	}
	// The flag is not the field's: upstream takes either for a yes.
	if slices.ContainsFunc(cfg.Args, func(arg string) bool { return componentargs.Name(arg) == "seccomp-default" }) {
		config.SeccompDefault = flags.SeccompDefault
	}
	return nil
}

// withDefaults is the configuration by brink's defaults, without the user's flags.
func withDefaults(cfg Config) (*kubeletconfig.KubeletConfiguration, error) {
	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, err
	}
	flags := options.NewKubeletFlags()
	apply(cfg, flags, config)
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	flags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, config)
	return config, componentargs.Parse(fs, "kubelet-arg", defaults(cfg), nil)
}

// defaults are settings that exist as flags, so that the user's replace them.
func defaults(cfg Config) []string {
	args := []string{
		"hostname-override=" + cfg.NodeName,
		"root-dir=" + cfg.RootDir,
		"cert-dir=" + cfg.CertDir,
		"pod-manifest-path=" + cfg.ManifestDir,
		"container-runtime-endpoint=unix://" + cfg.CRISocket,
		"cluster-domain=" + cfg.ClusterDomain,
		"cluster-dns=" + joinAddrs(cfg.ClusterDNS),
		"resolv-conf=" + cfg.ResolvConf,
		"fail-swap-on=false",
		"tls-cipher-suites=" + ciphers.Names(),
		"tls-min-version=VersionTLS12",
		"healthz-port=0",
		"read-only-port=0",
		// Boards with cgroup v1 still exist; upstream refuses them by default.
		"fail-cgroupv1=false",
		// Chains in the host's iptables, made again every minute, are hints for
		// other programs and one guard: the host's loopback against packets
		// from outside, which route_localnet lets in. kube-proxy sets that by
		// iptables only; for the bridge, where portmap does, network has a
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

// openFilesFlags keep the kubelet from changing the limit of the whole process,
// which is set when it starts: upstream's number may be more than is allowed, which
// it logs as an error, or less.
func openFilesFlags() []string {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Max > math.MaxInt64 {
		return nil
	}
	return []string{"max-open-files=" + strconv.FormatUint(limit.Max, 10)}
}

// keptFlags are those that apply sets and that must stay: who may talk to the
// kubelet, by which certificates, and that there is an API server.
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

// checkKept refuses what would be overruled: a user who set it believes in it.
func checkKept(fs *pflag.FlagSet, kept map[string]string) error {
	for _, name := range keptFlags {
		if got := fs.Lookup(name).Value.String(); got != kept[name] {
			return fmt.Errorf("--kubelet-arg=%s=%s: brink keeps this at %q, as the server's trust in its nodes depends on it: leave it out", name, got, kept[name])
		}
	}
	return nil
}

// apply sets what has no flag, or must not be unset by one (see keptFlags).
func apply(cfg Config, flags *options.KubeletFlags, config *kubeletconfig.KubeletConfiguration) {
	// Not a path: it only tells upstream that there is an API server. Clients
	// are handed over ready-made.
	flags.KubeConfig = "in-memory"
	config.Authentication.Anonymous.Enabled = false
	config.Authentication.Webhook.Enabled = true
	config.Authentication.X509.ClientCAFile = cfg.ClientCA
	config.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	config.TLSCertFile, config.TLSPrivateKeyFile = cfg.ServingCert, cfg.ServingKey
	config.ServerTLSBootstrap = cfg.ServingCert == ""
	config.PodLogsDir = cfg.PodLogsDir
	config.VolumePluginDir = filepath.Join(cfg.RootDir, "volumeplugins")
	config.MemorySwap.SwapBehavior = "NoSwap"
	config.EnableServer = true
	// Upstream runs pods that ask for no profile without one, for the sake of
	// clusters that are older than this setting.
	config.SeccompDefault = cfg.Seccomp
}

func joinAddrs(addrs []netip.Addr) string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return strings.Join(out, ",")
}

// run starts the kubelet. It is ready when its node is registered.
func run(ctx context.Context, cfg Config, server *options.KubeletServer, ready func()) error {
	for _, dir := range []string{cfg.RootDir, cfg.PodLogsDir, cfg.ManifestDir, cfg.CertDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	deps, err := dependencies(ctx, cfg, server)
	if err != nil {
		return err
	}
	utilfeature.DefaultMutableFeatureGate.AddMetrics()
	done := make(chan error, 1)
	if OwnsAddresses(cfg.Args) {
		logger := klog.FromContext(ctx)
		ctx = klog.NewContext(ctx, logger.WithSink(movedSink{logger.GetSink()}))
	}
	go func() { done <- app.Run(ctx, server, deps, utilfeature.DefaultFeatureGate) }()
	registered := make(chan struct{})
	go func() {
		exists := func(*corev1.Node) bool { return true }
		if _, err := WaitNode(ctx, deps.KubeClient, cfg.NodeName, exists); err == nil {
			close(registered)
		}
	}()
	select {
	case err := <-done:
		return ended(ctx, err)
	case <-registered:
		ready()
		return ended(ctx, <-done)
	}
}

// ended adds what upstream leaves out: returning before being told to is an
// error also when Run says nil.
func ended(ctx context.Context, err error) error {
	if err == nil && ctx.Err() == nil {
		return fmt.Errorf("the kubelet returned without an error")
	}
	return err
}

// dependencies are upstream's, with the API clients that upstream would build
// from a kubeconfig.
func dependencies(ctx context.Context, cfg Config, server *options.KubeletServer) (*kubelet.Dependencies, error) {
	deps, err := app.UnsecuredDependencies(ctx, server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg.API)
	if err != nil {
		return nil, err
	}
	deps.KubeClient = client
	if OwnsAddresses(cfg.Args) {
		deps.KubeClient = &registering{client, registration{cfg.Register, cfg.Refused}} // upstream asks whether the pointer is nil
	}
	deps.HostUtil = resolving{deps.HostUtil}
	if cfg.Saw != nil {
		deps.PodStartupLatencyTracker = seeing{util.NewPodStartupLatencyTracker(), cfg.Saw}
	}
	eventConfig := rest.CopyConfig(cfg.API)
	eventConfig.QPS, eventConfig.Burst = float32(server.EventRecordQPS), int(server.EventBurst)
	if deps.EventClient, err = typedcorev1.NewForConfig(eventConfig); err != nil {
		return nil, err
	}
	// A heartbeat that hangs must not outlive the period of heartbeats.
	heartbeat := rest.CopyConfig(cfg.API)
	heartbeat.Timeout = min(server.NodeStatusUpdateFrequency.Duration, time.Duration(server.NodeLeaseDurationSeconds)*time.Second)
	heartbeat.QPS = -1
	if deps.HeartbeatClient, err = kubernetes.NewForConfig(heartbeat); err != nil {
		return nil, err
	}
	transport, err := rest.TransportFor(cfg.API)
	if err != nil {
		return nil, err
	}
	deps.OnHeartbeatFailure = func() { closeIdle(transport) }
	if cfg.Reconnect != nil {
		deps.OnHeartbeatFailure = cfg.Reconnect
	}
	return deps, nil
}

// closeIdle drops connections that may have died with a lost link.
func closeIdle(t http.RoundTripper) {
	if c, ok := t.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
