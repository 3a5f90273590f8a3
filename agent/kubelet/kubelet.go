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
	"net/http"
	"net/netip"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	"k8s.io/kubernetes/pkg/kubelet"
	"k8s.io/kubernetes/pkg/kubelet/util"
)

// StopTimeout is short: the kubelet leaves its pods running and only has to
// end its loops.
const StopTimeout = 5 * time.Second

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

// Kubelet is a configured kubelet that has not been started.
type Kubelet struct {
	cfg    Config
	server *options.KubeletServer
}

// New parses and validates all flags; nothing is started.
func New(cfg Config) (*Kubelet, error) {
	server, err := serverOptions(cfg)
	if err != nil {
		return nil, err
	}
	return &Kubelet{cfg: cfg, server: server}, nil
}

// CheckArgs validates the flags as New does, on a machine that has not asked its
// cluster yet: cfg may lack ClusterDNS, ClusterDomain and all that is called.
func CheckArgs(cfg Config) error {
	_, err := serverOptions(cfg)
	return err
}

// Run runs the kubelet until ctx is done. It is ready when its node is registered.
func (k *Kubelet) Run(ctx context.Context, ready func()) error {
	cfg, server := k.cfg, k.server
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
