// Package kubelet embeds the kubelet, Kubernetes' program that runs the pods which the
// cluster gives to a node. It imports k8s.io/kubernetes, which costs minutes to compile
// and carries process globals; of the agent's packages only the service proxy does that
// too.
//
// The upstream command is not used: it installs signal handlers and applies
// logging. Its options are, so every kubelet flag exists under its own name.
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

// Config is what the kubelet is told of its node and cluster.
type Config struct {
	NodeName string
	// NodeIPs are the present addresses. The agent, not the kubelet, writes them into
	// the Node: see CompleteNode and OwnsAddresses.
	NodeIPs []netip.Addr
	// Offline is a start without a server, from which the Node could be read.
	Offline bool
	// CompleteNode completes the Node, with its addresses, before it is created.
	CompleteNode func(*corev1.Node)
	// NodeRefused is called with the reason when the API server refuses the Node.
	NodeRefused func(error)
	// Labels and Taints are given to the node when it registers, in the form
	// of the kubelet's flags: key=value and key=value:Effect.
	Labels, Taints []string

	ClusterDNS    []netip.Addr
	ClusterDomain string

	// API reaches the API server as this node.
	API *rest.Config
	// Reconnect is called when heartbeats fail: connections may have died with
	// a lost link. If it is nil, the idle connections of API are closed.
	Reconnect func()
	// ObservePod is called with the uid of each pod before the kubelet learns of the pod.
	ObservePod func(uid string)
	// CRISocket is containerd's socket, an absolute path.
	CRISocket string

	// RootDir, PodLogsDir, ManifestDir and CertDir are created by the kubelet.
	RootDir, PodLogsDir, ManifestDir, CertDir string
	// ServingCert and ServingKey are read again when they change. Without them the
	// kubelet requests a certificate from the cluster, keeps it in CertDir and renews
	// it. ClientCA verifies callers.
	ServingCert, ServingKey, ClientCA string

	// SystemdCgroups selects the systemd cgroup driver instead of cgroupfs. It agrees with
	// ChosenDriver where the user has chosen.
	SystemdCgroups bool
	// CgroupRoot, unless empty, is that of Args in the form that the kubelet wants.
	CgroupRoot string
	// Seccomp gives pods that request no profile the runtime's.
	Seccomp bool
	// Reserved are flags for the resources of the machine that pods must leave.
	Reserved []string
	// ResolvConf is the file that pods with dnsPolicy Default get.
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

// CheckArgs validates the flags as New does, on a machine that does not know its cluster
// yet: cfg may lack ClusterDNS, ClusterDomain, API and all functions.
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

// ended makes it an error when upstream's Run returns nil before ctx is done.
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
		return nil, fmt.Errorf("making the kubelet's client: %w", err)
	}
	deps.KubeClient = client
	if OwnsAddresses(cfg.Args) {
		deps.KubeClient = &registering{client, registration{cfg.CompleteNode, cfg.NodeRefused}} // a pointer: upstream compares it with nil
	}
	deps.HostUtil = resolving{deps.HostUtil}
	if cfg.ObservePod != nil {
		deps.PodStartupLatencyTracker = podObserver{util.NewPodStartupLatencyTracker(), cfg.ObservePod}
	}
	eventConfig := rest.CopyConfig(cfg.API)
	eventConfig.QPS, eventConfig.Burst = float32(server.EventRecordQPS), int(server.EventBurst)
	if deps.EventClient, err = typedcorev1.NewForConfig(eventConfig); err != nil {
		return nil, fmt.Errorf("making the kubelet's client for events: %w", err)
	}
	// A heartbeat that hangs must end before the next one is due.
	heartbeat := rest.CopyConfig(cfg.API)
	heartbeat.Timeout = min(server.NodeStatusUpdateFrequency.Duration, time.Duration(server.NodeLeaseDurationSeconds)*time.Second)
	heartbeat.QPS = -1
	if deps.HeartbeatClient, err = kubernetes.NewForConfig(heartbeat); err != nil {
		return nil, fmt.Errorf("making the kubelet's client for heartbeats: %w", err)
	}
	transport, err := rest.TransportFor(cfg.API)
	if err != nil {
		return nil, fmt.Errorf("finding the kubelet's connections: %w", err)
	}
	deps.OnHeartbeatFailure = func() { closeIdle(transport) }
	if cfg.Reconnect != nil {
		deps.OnHeartbeatFailure = cfg.Reconnect
	}
	return deps, nil
}

// closeIdle closes idle connections, which may have died with a lost link.
func closeIdle(t http.RoundTripper) {
	if c, ok := t.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
