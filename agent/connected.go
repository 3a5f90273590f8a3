package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/agent/kubelet"
	"brink/agent/ledger"
	"brink/agent/proxy"
	"brink/agent/tunnel"
	"brink/internal/componentargs"
	"brink/internal/proxyenv"
	"brink/internal/wire/clusterconfig"
	"brink/internal/wire/nodeuser"
	"brink/network"
	"brink/network/nodeaddr"
)

// connected is the node with access to its cluster. It is built once, by New beside a
// server and after joining on a machine of its own, and handed to each component that
// needs the cluster.
type connected struct {
	cfg     Config
	started time.Time
	access  Access
	offline bool // no server answered when the node joined
	// ledgerLog is the Agent's.
	ledgerLog *slog.Logger

	status  *nodeStatus
	health  health
	kubelet *kubelet.Kubelet
	proxy   *proxy.Proxy
	network *podNetwork
	tunnels *tunnel.Tunnels // beside a server there are none in it
}

// connect builds the parts that need the cluster. It is called once.
func (a *Agent) connect(access Access, online bool) error {
	cfg := a.cfg
	n := &connected{cfg: cfg, started: a.started, access: access, offline: !online, ledgerLog: a.ledgerLog, network: &podNetwork{}}
	n.status = newNodeStatus(cfg, access)
	n.tunnels = n.newTunnels()
	kc := kubeletConfig(cfg, access)
	kc.Offline, kc.CompleteNode, kc.NodeRefused, kc.ObservePod = n.offline, n.status.complete, n.status.warn, a.recordPod
	var err error
	if n.kubelet, err = kubelet.New(kc); err != nil {
		return err
	}
	if n.proxy, err = proxy.New(n.proxyConfig()); err != nil {
		return err
	}
	a.node = n
	close(a.connected)
	return nil
}

// whenConnected hands the connected node to a component.
func (a *Agent) whenConnected(run func(*connected, context.Context, func()) error) runFunc {
	return func(ctx context.Context, ready func()) error {
		select {
		case <-ctx.Done():
			return nil
		case <-a.connected:
			return run(a.node, ctx, ready)
		}
	}
}

// connection returns the connected node, nil until there is one.
func (a *Agent) connection() *connected {
	select {
	case <-a.connected:
		return a.node
	default:
		return nil
	}
}

// runJoin makes this machine a node of its cluster and keeps it one.
func (a *Agent) runJoin(ctx context.Context, ready func()) error {
	j := a.cfg.Join
	settings, online, err := j.Run(ctx)
	if err != nil {
		return err
	}
	backend, err := network.ParseBackend(settings.NetworkBackend)
	if err != nil {
		return fmt.Errorf("the cluster's settings: %w", err)
	}
	if err := a.findAddresses(settings); err != nil {
		return err
	}
	if err := proxyenv.Exclude(append(proxyenv.Ranges(settings.ClusterCIDRs, settings.ServiceCIDRs), settings.ClusterDomain)...); err != nil {
		return fmt.Errorf("keeping the cluster's addresses from the proxy: %w", err)
	}
	access := Access{
		API:           j.API,
		Reconnect:     j.Reconnect,
		ClientCA:      a.cfg.Layout.ClientCA(),
		ClusterCIDRs:  settings.ClusterCIDRs,
		ServiceCIDRs:  settings.ServiceCIDRs,
		ClusterDNS:    settings.ClusterDNS,
		ClusterDomain: settings.ClusterDomain,
		Backend:       backend,
		Machine:       j.Machine(),
	}
	if err := a.connect(access, online); err != nil {
		return err
	}
	ready()
	return j.Maintain(ctx, func(known, announced []string) {
		a.node.tunnels.SetServers(known)
		a.node.tunnels.Announced(announced)
	})
}

// findAddresses finds the node's addresses, unless the user has given them, and checks
// them. It needs the cluster's settings: the addresses must be of the families of the pods.
func (a *Agent) findAddresses(settings clusterconfig.Config) error {
	if err := a.cfg.Addresses.Find(settings.ClusterCIDRs, settings.ServiceCIDRs); err != nil {
		return err
	}
	ips, first := a.cfg.Addresses.IPs(), settings.ClusterCIDRs[0]
	if ips[0].Is4() != first.Addr().Is4() {
		return fmt.Errorf("the node's address %s is not of the family of the cluster's pods, %s: give --node-ip", ips[0], first)
	}
	for _, ip := range ips {
		if err := nodeaddr.Check(ip, slices.Concat(settings.ClusterCIDRs, settings.ServiceCIDRs)); err != nil {
			return fmt.Errorf("this machine cannot be a node of the cluster with the address %s: %w: give another --node-ip", ip, err)
		}
	}
	return nil
}

// kubeletConfig returns what the kubelet is told of the machine and its cluster.
func kubeletConfig(cfg Config, access Access) kubelet.Config {
	l := cfg.Layout
	out := kubelet.Config{
		NodeName:       cfg.NodeName,
		NodeIPs:        cfg.Addresses.IPs(),
		Labels:         cfg.Labels,
		Taints:         cfg.Taints,
		ClusterDNS:     access.ClusterDNS,
		ClusterDomain:  access.ClusterDomain,
		Reconnect:      access.Reconnect,
		CRISocket:      l.ContainerdSocket(),
		RootDir:        l.Kubelet(),
		PodLogsDir:     l.PodLogs(),
		ManifestDir:    l.Manifests(),
		CertDir:        l.KubeletCerts(),
		ServingCert:    access.ServingCert,
		ServingKey:     access.ServingKey,
		ClientCA:       access.ClientCA,
		SystemdCgroups: cfg.groups.systemd,
		CgroupRoot:     cfg.groups.root,
		Seccomp:        cfg.Host.Seccomp,
		Reserved:       Reserve(cfg.Host, cfg.Join == nil).kubeletFlags(cfg.KubeletArgs),
		ResolvConf:     l.ResolvConf(),
		Args:           cfg.KubeletArgs,
	}
	if access.API != nil {
		out.API = access.nodeAPI(cfg.NodeName)
	}
	return out
}

func (n *connected) proxyConfig() proxy.Config {
	return proxy.Config{
		NodeName:     n.cfg.NodeName,
		NodeIPs:      n.cfg.Addresses.IPs(),
		IPsMayChange: n.cfg.Addresses.MayChange(),
		ClusterCIDRs: n.access.ClusterCIDRs,
		API:          n.access.proxyAPI(),
		Args:         n.cfg.ProxyArgs,
		Changing: func(names ...string) (done func()) {
			changed, err := ledger.RecordUnknown(n.cfg.Layout, names...)
			warnUnrecorded(n.ledgerLog, err)
			return func() { warnUnrecorded(n.ledgerLog, changed()) }
		},
	}
}

// newTunnels makes the tunnels by which servers reach this node.
func (n *connected) newTunnels() *tunnel.Tunnels {
	cfg := tunnel.Config{
		Kubelet:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), componentargs.Port(n.cfg.KubeletArgs, "port", KubeletPort)),
		PodCIDRs: n.network.podCIDRs,
		NodeIPs:  n.cfg.Addresses.IPs,
	}
	if j := n.cfg.Join; j != nil {
		cfg.TLS = func() (*tls.Config, error) { return j.TLS(), j.Refused() }
		cfg.Revision, cfg.Proof = j.Revision, j.Proof
	}
	return tunnel.New(cfg)
}

func (n *connected) runTunnels(ctx context.Context, ready func()) error {
	return n.tunnels.Run(ctx, ready)
}

func (n *connected) runKubelet(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	var followers sync.WaitGroup
	defer followers.Wait()
	defer cancel()
	if err := n.startResolv(ctx, &followers); err != nil {
		return err
	}
	if err := n.awaitAPI(ctx); err != nil {
		return err
	}
	return n.kubelet.Run(ctx, ready)
}

func (n *connected) runProxy(ctx context.Context, ready func()) error { return n.proxy.Run(ctx, ready) }

// awaitAPI waits until the API server knows this node's rights: a kubelet that starts
// earlier is refused and pauses for seconds before it tries again. It does not wait when no
// server answers, since the kubelet can run static pods. It returns an error if the Node is
// another machine's, before anything is written into it.
func (n *connected) awaitAPI(ctx context.Context) error {
	if n.offline {
		return nil
	}
	client, err := n.nodeClient()
	if err != nil {
		return err
	}
	pause := wait.Backoff{Duration: 20 * time.Millisecond, Factor: 1.1, Cap: 2 * time.Second, Steps: math.MaxInt32}
	return pause.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		node, err := client.CoreV1().Nodes().Get(ctx, n.cfg.NodeName, metav1.GetOptions{})
		if err != nil {
			return apierrors.IsNotFound(err), nil
		}
		return true, n.status.checkOwner(node)
	})
}

// nodeAPI reaches the API server as the node's kubelet.
func (a Access) nodeAPI(name string) *rest.Config { return a.API(nodeuser.Name(name), nodeuser.Group) }

// proxyAPI reaches the API server as the service proxy, whose rights are there from
// the start and let it read other nodes.
func (a Access) proxyAPI() *rest.Config { return a.API("system:kube-proxy") }

func (n *connected) nodeClient() (kubernetes.Interface, error) {
	return kubernetes.NewForConfig(n.access.nodeAPI(n.cfg.NodeName))
}
