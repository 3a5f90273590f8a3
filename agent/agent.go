// Package agent is the node: containerd, the kubelet, the pod network and the
// service proxy. It reaches the API server by client configurations that it is
// given: in memory beside a server, TLS from a machine that joined. The list in
// Components reads as its architecture.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/agent/kubelet"
	"brink/agent/proxy"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/network"
	"brink/runtime"
	"brink/runtime/payload"
)

// Config is what the node is told.
type Config struct {
	Layout        layout.Layout
	NodeName      string
	NodeIPs       []netip.Addr
	Labels        []string // key=value
	Taints        []string // key=value:Effect
	ClusterCIDRs  []netip.Prefix
	ClusterDNS    []netip.Addr
	ClusterDomain string

	// API reaches the API server as a user in groups.
	API func(user string, groups ...string) *rest.Config
	// ServingCert and ServingKey are the kubelet's; ClientCA verifies callers.
	ServingCert, ServingKey, ClientCA string

	RegistriesFile         string
	Host                   host.Facts
	KubeletArgs, ProxyArgs []string
	Debug                  bool
}

// Agent is a configured node that has not been started.
type Agent struct {
	cfg     Config
	started time.Time
	health  atomic.Pointer[string] // why the node is not ready, nil when it is
	kubelet lifecycle.Component
	proxy   *proxy.Proxy
}

// New checks all settings; nothing is started and nothing is written.
func New(cfg Config) (*Agent, error) {
	a := &Agent{cfg: cfg, started: time.Now()}
	if _, err := runtime.ReadRegistries(cfg.RegistriesFile); err != nil {
		return nil, err
	}
	l := cfg.Layout
	var err error
	a.kubelet, err = kubelet.New(kubelet.Config{
		NodeName:       cfg.NodeName,
		NodeIPs:        cfg.NodeIPs,
		Labels:         cfg.Labels,
		Taints:         cfg.Taints,
		ClusterDNS:     cfg.ClusterDNS,
		ClusterDomain:  cfg.ClusterDomain,
		API:            a.nodeAPI(),
		CRISocket:      l.ContainerdSocket(),
		RootDir:        l.Kubelet(),
		PodLogsDir:     l.PodLogs(),
		ManifestDir:    l.Manifests(),
		CertDir:        l.KubeletCerts(),
		ServingCert:    cfg.ServingCert,
		ServingKey:     cfg.ServingKey,
		ClientCA:       cfg.ClientCA,
		SystemdCgroups: cfg.Host.SystemdCgroup(),
		ResolvConf:     resolvConf(hostResolv, systemdResolv),
		Args:           cfg.KubeletArgs,
	})
	if err != nil {
		return nil, err
	}
	a.proxy, err = proxy.New(proxy.Config{
		NodeName:     cfg.NodeName,
		NodeIPs:      cfg.NodeIPs,
		ClusterCIDRs: cfg.ClusterCIDRs,
		API:          cfg.API("system:kube-proxy"),
		Args:         cfg.ProxyArgs,
	})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Components returns the node's parts in start order.
func (a *Agent) Components() []lifecycle.Component {
	kubelet, proxy := a.kubelet, a.proxy.Component()
	kubelet.Run = a.afterAPI(kubelet.Run)
	proxy.Needs = []string{"kubelet"}
	return []lifecycle.Component{
		{Name: "cgroups", Needs: lifecycle.Nothing, Run: a.runCgroups},            // where pods' cgroups lie
		{Name: "containerd", Run: a.runContainerd, StopTimeout: 20 * time.Second}, // with the programs it needs
		{Name: "images", Run: a.runImages},                                        // archives that lie beside the node
		kubelet,                                                                   // registers the node
		{Name: "network", Run: a.runNetwork},                                      // needs the node's address range
		proxy,                                                                     // needs the node
		{Name: "node", Needs: []string{"network", "service-proxy"}, Run: a.runNode}, // ready when Kubernetes says so
	}
}

// afterAPI holds a component back until the API server knows this node's
// rights. A kubelet that comes earlier is refused and waits for seconds before
// it asks again.
func (a *Agent) afterAPI(run func(context.Context, func()) error) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		client, err := kubernetes.NewForConfig(a.nodeAPI())
		if err != nil {
			return err
		}
		answers := func(ctx context.Context) (bool, error) {
			_, err := client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
			return err == nil || apierrors.IsNotFound(err), nil
		}
		if err := wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, answers); err != nil {
			return err
		}
		return run(ctx, ready)
	}
}

func (a *Agent) nodeAPI() *rest.Config {
	return a.cfg.API("system:node:"+a.cfg.NodeName, "system:nodes")
}

// runContainerd unpacks the programs and runs containerd with them.
func (a *Agent) runContainerd(ctx context.Context, ready func()) error {
	l := a.cfg.Layout
	programs, err := payload.Unpack(l.Payload(), l.ContainerdState())
	if err != nil {
		return err
	}
	component, err := runtime.New(runtime.Config{
		Root:           l.ContainerdRoot(),
		State:          l.ContainerdState(),
		Socket:         l.ContainerdSocket(),
		BinDir:         programs.Bin(),
		PauseArchive:   programs.PauseArchive(),
		PauseImage:     programs.PauseImage(),
		CNIBinDir:      programs.Bin(),
		CNIConfDir:     l.CNIConf(),
		RegistriesFile: a.cfg.RegistriesFile,
		Host:           a.cfg.Host,
		Debug:          a.cfg.Debug,
	})
	if err != nil {
		return err
	}
	return component.Run(ctx, ready)
}

// runImages imports what lies in the images directory, then idles.
func (a *Agent) runImages(ctx context.Context, ready func()) error {
	archives := runtime.Archives{Socket: a.cfg.Layout.ContainerdSocket(), Root: a.cfg.Layout.ContainerdRoot()}
	if err := archives.ImportDir(ctx, a.cfg.Layout.Images()); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// runNetwork waits for the address range that the cluster gives this node,
// then keeps the pod network up.
func (a *Agent) runNetwork(ctx context.Context, ready func()) error {
	client, err := kubernetes.NewForConfig(a.nodeAPI())
	if err != nil {
		return err
	}
	node, err := kubelet.WaitNode(ctx, client, a.cfg.NodeName, func(n *corev1.Node) bool { return len(n.Spec.PodCIDRs) > 0 })
	if err != nil {
		return fmt.Errorf("waiting for the node's address range: %w", err)
	}
	ranges, err := parsePrefixes(node.Spec.PodCIDRs)
	if err != nil {
		return fmt.Errorf("node %s: %w", a.cfg.NodeName, err)
	}
	l := a.cfg.Layout
	return network.New(network.Config{
		ClusterCIDRs: a.cfg.ClusterCIDRs,
		NodeCIDRs:    ranges,
		CNIConfDir:   l.CNIConf(),
		CNIStateDir:  l.CNIState(),
	}).Run(ctx, ready)
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var errs []error
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		errs = append(errs, err)
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

// runNode is ready when the API server has the node as Ready, by a report of
// this process.
func (a *Agent) runNode(ctx context.Context, ready func()) error {
	client, err := kubernetes.NewForConfig(a.nodeAPI())
	if err != nil {
		return err
	}
	a.followNode(ctx, client, ready)
	return nil
}

// followNode keeps what Health says until ctx is done.
func (a *Agent) followNode(ctx context.Context, client kubernetes.Interface, ready func()) {
	wasReady := false
	_ = kubelet.WatchNode(ctx, client, a.cfg.NodeName, func(node *corev1.Node) bool {
		reason := kubelet.NotReadyReason(node)
		switch {
		case node != nil && kubelet.IsReady(node, a.started):
			wasReady = true
			a.health.Store(nil)
			ready()
		case wasReady && reason != "":
			a.notReady(reason)
		}
		return false
	})
}

// notReady logs a reason once, also where the node's status comes again and again.
func (a *Agent) notReady(reason string) {
	if last := a.health.Swap(&reason); last == nil || *last != reason {
		slog.Warn("the node is not ready any more", "component", "node", "reason", reason)
	}
}

// Health is nil while the node is Ready for the API server and its Services are
// served, and says what is not once it has been, or once it has failed.
func (a *Agent) Health() error {
	var ready error
	if reason := a.health.Load(); reason != nil {
		ready = fmt.Errorf("node %s is not ready: %s", a.cfg.NodeName, *reason)
	}
	return errors.Join(ready, a.proxy.Health())
}
