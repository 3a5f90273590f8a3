// Package agent is the node: containerd, the kubelet, the pod network and the
// service proxy. It reaches the API server by client configurations that it is
// given: in memory beside a server, TLS from a machine that joined. The list in
// Components reads as its architecture.
package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/agent/join"
	"brink/agent/kubelet"
	"brink/agent/ledger"
	"brink/agent/proxy"
	"brink/agent/tunnel"
	"brink/internal/componentargs"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/proxyenv"
	"brink/internal/wire/clusterconfig"
	"brink/internal/wire/nodekey"
	"brink/internal/wire/nodeuser"
	"brink/network"
	"brink/network/nodeaddr"
	"brink/runtime"
	"brink/runtime/payload"
)

// KubeletPort is that of a kubelet whose flags do not move it.
const KubeletPort = 10250

// Config is what the node is told. Access is that of a node beside a server, Join
// that of one on a machine of its own.
type Config struct {
	Layout   layout.Layout
	NodeName string
	// NodeIPs are the node's addresses, one a family. FindIPs finds them again
	// while the node runs; nil when the user has said which they are.
	NodeIPs     []netip.Addr
	FindIPs     func(pods, services []netip.Prefix) ([]netip.Addr, error)
	ExternalIPs []netip.Addr // by which it is reached from outside
	Labels      []string     // key=value
	Taints      []string     // key=value:Effect

	Access *Access
	Join   *join.Join

	// KubeletNeeds are further components before the kubelet. One process has one
	// table of volume plugins for the kubelet and the controllers, and upstream's
	// CSI plugin knows only the node of who has made it last: the controllers have
	// none, and with them last the kubelet ends the process.
	KubeletNeeds []string

	RegistriesFile         string
	Host                   host.Facts
	KubeletArgs, ProxyArgs []string
	Debug                  bool
}

// Access is how a node reaches its cluster, and what it has to know of it.
type Access struct {
	// API reaches the API server as a user in groups; on a machine of its own the
	// node acts for all of its parts.
	API func(user string, groups ...string) *rest.Config
	// Reconnect gives up connections that may be dead; nil when there are none.
	Reconnect func()
	// ServingCert and ServingKey are the kubelet's; with none it asks for one.
	// ClientCA verifies callers.
	ServingCert, ServingKey, ClientCA string

	ClusterCIDRs  []netip.Prefix
	ServiceCIDRs  []netip.Prefix
	ClusterDNS    []netip.Addr
	ClusterDomain string
	Backend       network.Backend
	// Machine is what the cluster knows this machine by; empty beside a server.
	Machine nodekey.Public
}

// Agent is a configured node that has not been started.
type Agent struct {
	cfg     Config
	started time.Time
	health  atomic.Pointer[string] // why the node is not ready, nil when it is

	// What follows is set once the node has access to its cluster, before the
	// components start that use it.
	access  Access
	offline bool // no server answered then
	place   *place
	kubelet lifecycle.Component
	proxy   atomic.Pointer[proxy.Proxy]
	network atomic.Pointer[network.Network] // nil until it runs
	ranges  atomic.Pointer[[]netip.Prefix]  // of the node's pods, nil until they are known
	pods    atomic.Pointer[ledger.Pods]     // nil until the ledger is written

	tunnels *tunnel.Tunnels // nil beside a server
}

// New checks all settings; nothing is started and nothing is written.
func New(cfg Config) (*Agent, error) {
	a := &Agent{cfg: cfg, started: time.Now()}
	if _, err := runtime.ReadRegistries(cfg.RegistriesFile); err != nil {
		return nil, err
	}
	if cfg.Join == nil {
		return a, a.use(cmp.Or(cfg.Access, &assumed))
	}
	a.tunnels = a.newTunnels()
	return a, a.use(&assumed)
}

// assumed stands for the access that joining brings, to check flags before.
var assumed = Access{
	API:           func(string, ...string) *rest.Config { return &rest.Config{} }, // never asked
	ClientCA:      "/nowhere",
	ClusterCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
	ClusterDNS:    []netip.Addr{netip.MustParseAddr("10.43.0.10")},
	ClusterDomain: "cluster.local",
}

// use builds the parts that need the cluster.
func (a *Agent) use(access *Access) error {
	cfg, l := a.cfg, a.cfg.Layout
	a.access = *access
	a.place = newPlace(cfg.NodeName, cfg.NodeIPs, cfg.ExternalIPs, access.Backend)
	if access.Machine != "" {
		a.place.says[nodekey.NodeAnnotation] = string(access.Machine)
	}
	var err error
	a.kubelet, err = kubelet.New(kubelet.Config{
		NodeName:       cfg.NodeName,
		NodeIPs:        cfg.NodeIPs,
		Offline:        a.offline,
		Register:       a.place.complete,
		Refused:        a.place.complain,
		Labels:         cfg.Labels,
		Taints:         cfg.Taints,
		ClusterDNS:     access.ClusterDNS,
		ClusterDomain:  access.ClusterDomain,
		API:            a.nodeAPI(),
		Reconnect:      access.Reconnect,
		Saw:            a.saw,
		CRISocket:      l.ContainerdSocket(),
		RootDir:        l.Kubelet(),
		PodLogsDir:     l.PodLogs(),
		ManifestDir:    l.Manifests(),
		CertDir:        l.KubeletCerts(),
		ServingCert:    access.ServingCert,
		ServingKey:     access.ServingKey,
		ClientCA:       access.ClientCA,
		SystemdCgroups: cfg.Host.SystemdCgroup(),
		Seccomp:        cfg.Host.Seccomp,
		Reserved:       Reserve(cfg.Host, cfg.Join == nil).kubeletFlags(cfg.KubeletArgs),
		ResolvConf:     l.ResolvConf(),
		Args:           cfg.KubeletArgs,
	})
	if err != nil {
		return err
	}
	p, err := proxy.New(proxy.Config{
		NodeName:     cfg.NodeName,
		NodeIPs:      cfg.NodeIPs,
		IPsMayChange: cfg.FindIPs != nil,
		ClusterCIDRs: access.ClusterCIDRs,
		API:          access.API("system:kube-proxy"),
		Args:         cfg.ProxyArgs,
		Changing: func(names ...string) (done func()) {
			changed, err := ledger.RecordUnknown(l, names...)
			a.unlisted(err)
			return func() { a.unlisted(changed()) }
		},
	})
	a.proxy.Store(p)
	return err
}

// Components returns the node's parts in start order.
func (a *Agent) Components() []lifecycle.Component {
	// A machine of its own joins while its containerd starts.
	access := "images"
	var list []lifecycle.Component
	if a.cfg.Join != nil {
		access = "join"
		tunnels := a.tunnels.Component()
		tunnels.Needs = []string{access}
		list = append(list, lifecycle.Component{Name: access, Needs: lifecycle.Nothing, Run: a.runJoin}, tunnels)
	}
	return append(list,
		lifecycle.Component{Name: "cgroups", Needs: lifecycle.Nothing, Run: a.runCgroups},            // where pods' cgroups lie
		lifecycle.Component{Name: "containerd", Run: a.runContainerd, StopTimeout: 20 * time.Second}, // with the programs it needs
		lifecycle.Component{Name: "images", Run: a.runImages},                                        // archives that lie beside the node
		a.kubeletComponent(append(a.cfg.KubeletNeeds, "images", access)...),                          // registers the node
		lifecycle.Component{Name: "network", Needs: []string{a.networkNeeds()}, Run: a.runNetwork},   // needs the node's address range
		a.proxyComponent("kubelet"), // needs the node
		lifecycle.Component{Name: "node", Needs: []string{"network", "service-proxy"}, Run: a.runNode}, // ready when Kubernetes says so
	)
}

// networkNeeds: beside a server, the Node and with it its range are there when the
// kubelet is ready. A machine of its own may know its range without a server.
func (a *Agent) networkNeeds() string {
	if a.cfg.Join != nil {
		return "join"
	}
	return "kubelet"
}

func (a *Agent) kubeletComponent(needs ...string) lifecycle.Component {
	c := a.kubelet
	c.Needs = needs
	c.Run = func(ctx context.Context, ready func()) error {
		if err := a.runResolv(ctx); err != nil {
			return err
		}
		if err := a.awaitAPI(ctx); err != nil {
			return err
		}
		return a.kubelet.Run(ctx, ready) // the one of now, see use
	}
	return c
}

func (a *Agent) proxyComponent(needs ...string) lifecycle.Component {
	c := a.proxy.Load().Component()
	c.Needs = needs
	c.Run = func(ctx context.Context, ready func()) error { return a.proxy.Load().Component().Run(ctx, ready) }
	return c
}

// runJoin makes this machine a node of its cluster and keeps it one.
func (a *Agent) runJoin(ctx context.Context, ready func()) error {
	j := a.cfg.Join
	settings, online, err := j.Run(ctx)
	if err != nil {
		return err
	}
	a.offline = !online
	backend, err := network.ParseBackend(settings.NetworkBackend)
	if err != nil {
		return fmt.Errorf("the cluster's settings: %w", err)
	}
	if err := a.findIPs(settings); err != nil {
		return err
	}
	if err := proxyenv.Exclude(append(proxyenv.Ranges(settings.ClusterCIDRs, settings.ServiceCIDRs), settings.ClusterDomain)...); err != nil {
		return err
	}
	err = a.use(&Access{
		API:           j.API,
		Reconnect:     j.Reconnect,
		ClientCA:      a.cfg.Layout.ClientCA(),
		ClusterCIDRs:  settings.ClusterCIDRs,
		ServiceCIDRs:  settings.ServiceCIDRs,
		ClusterDNS:    settings.ClusterDNS,
		ClusterDomain: settings.ClusterDomain,
		Backend:       backend,
		Machine:       j.Machine(),
	})
	if err != nil {
		return err
	}
	ready()
	return j.Keep(ctx, func(known, announced []string) {
		a.tunnels.SetServers(known)
		a.tunnels.Announced(announced)
	})
}

// newTunnels are those by which servers reach this node.
func (a *Agent) newTunnels() *tunnel.Tunnels {
	return tunnel.New(tunnel.Config{
		TLS:     func() (*tls.Config, error) { return a.cfg.Join.TLS(), a.cfg.Join.Refused() },
		Kubelet: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), componentargs.Port(a.cfg.KubeletArgs, "port", KubeletPort)),
		PodCIDRs: func() []netip.Prefix {
			if ranges := a.ranges.Load(); ranges != nil {
				return *ranges
			}
			return nil
		},
		NodeIPs:  func() []netip.Addr { return a.place.internal() },
		Revision: a.cfg.Join.Revision,
		Proof:    a.cfg.Join.Proof,
	})
}

// findIPs completes what could not be known before the cluster was: of which
// families the node's addresses must be.
func (a *Agent) findIPs(settings clusterconfig.Config) error {
	if a.cfg.FindIPs != nil {
		ips, err := a.cfg.FindIPs(settings.ClusterCIDRs, settings.ServiceCIDRs)
		if err != nil {
			return err
		}
		a.cfg.NodeIPs = ips
	}
	first := settings.ClusterCIDRs[0]
	if ip := a.cfg.NodeIPs[0]; ip.Is4() != first.Addr().Is4() {
		return fmt.Errorf("the node's address %s is not of the family of the cluster's pods, %s: give --node-ip", ip, first)
	}
	for _, ip := range a.cfg.NodeIPs {
		if err := nodeaddr.Check(ip, slices.Concat(settings.ClusterCIDRs, settings.ServiceCIDRs)); err != nil {
			return fmt.Errorf("this machine cannot be a node of the cluster with the address %s: %w: give another --node-ip", ip, err)
		}
	}
	return nil
}

// awaitAPI holds a component back until the API server knows this node's
// rights. A kubelet that comes earlier is refused and waits for seconds before
// it asks again. Without a server there are static pods to begin with. The Node of
// another machine is an error, before anything is written into it.
func (a *Agent) awaitAPI(ctx context.Context) error {
	if a.offline {
		return nil
	}
	client, err := kubernetes.NewForConfig(a.nodeAPI())
	if err != nil {
		return err
	}
	pause := wait.Backoff{Duration: 20 * time.Millisecond, Factor: 1.1, Cap: 2 * time.Second, Steps: math.MaxInt32}
	return pause.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		node, err := client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
		if err != nil {
			return apierrors.IsNotFound(err), nil
		}
		return true, a.checkOwner(node)
	})
}

func (a *Agent) nodeAPI() *rest.Config {
	return a.access.API(nodeuser.Name(a.cfg.NodeName), nodeuser.Group)
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

// runImages imports what lies in the images directory, and after an unclean end looks
// at all images.
func (a *Agent) runImages(ctx context.Context, ready func()) error {
	archives := runtime.Archives{Socket: a.cfg.Layout.ContainerdSocket(), Root: a.cfg.Layout.ContainerdRoot()}
	if err := archives.ImportDir(ctx, a.cfg.Layout.Images()); err != nil {
		return err
	}
	a.forgetPulls(ctx, archives)
	ready()
	if err := archives.Recheck(ctx, a.cfg.Layout.Images()); err != nil && ctx.Err() == nil {
		slog.Warn("images are checked again at the next start", "component", "images", "error", err)
	}
	<-ctx.Done()
	return nil
}

// runNode is ready when the API server has the node as Ready, by a report of
// this process.
func (a *Agent) runNode(ctx context.Context, ready func()) error {
	client, err := kubernetes.NewForConfig(a.nodeAPI())
	if err != nil {
		return err
	}
	return a.followNode(ctx, client, ready)
}

// followNode keeps what Health says until ctx is done, or the Node is not one that
// this process can go on with.
func (a *Agent) followNode(ctx context.Context, client kubernetes.Interface, ready func()) error {
	wasReady := false
	var other error
	_ = kubelet.WatchNode(ctx, client, a.cfg.NodeName, func(node *corev1.Node) bool {
		if other = a.checkOwner(node); other == nil {
			other = a.checkRanges(node)
		}
		if other != nil {
			return true
		}
		a.keepPlace(ctx, client, node)
		reason := kubelet.NotReadyReason(node)
		switch {
		case node != nil && kubelet.IsReady(node, a.started):
			wasReady = true
			a.health.Store(nil)
			ready()
		case wasReady && reason != "":
			if node == nil {
				a.askWhether(ctx, client)
			}
			a.notReady(reason)
		}
		return false
	})
	return other
}

// askWhether lets the servers say that they do not take this node's certificate any
// more, which tells more than that the Node is gone.
func (a *Agent) askWhether(ctx context.Context, client kubernetes.Interface) {
	ctx, cancel := context.WithTimeout(ctx, placeInterval)
	defer cancel()
	_, _ = client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
}

// keepPlace corrects where the Node says it is. What cannot be written now is
// corrected at the next event.
func (a *Agent) keepPlace(ctx context.Context, client kubernetes.Interface, node *corev1.Node) {
	if node == nil || !kubelet.OwnsAddresses(a.cfg.KubeletArgs) {
		return
	}
	if err := a.place.keep(ctx, client, node); ctx.Err() == nil {
		a.place.complain(err)
	}
}

// notReady logs a reason once, also where the node's status comes again and again.
func (a *Agent) notReady(reason string) {
	if last := a.health.Swap(&reason); (last == nil || *last != reason) && a.refused() == nil {
		slog.Warn("the node is not ready any more", "component", "node", "reason", reason)
	}
}

// Health is nil while the node is Ready for the API server and its Services are
// served, and says what is not once it has been, or once it has failed.
func (a *Agent) Health() error {
	ready := a.refused()
	if reason := a.health.Load(); reason != nil && ready == nil {
		ready = fmt.Errorf("node %s is not ready: %s", a.cfg.NodeName, *reason)
	}
	return errors.Join(ready, a.proxy.Load().Health())
}

// Warnings is nil, or what needs somebody's attention while the node is Ready:
// peers whose pods cannot be reached, servers that cannot reach this node.
func (a *Agent) Warnings() error {
	var errs []error
	if n := a.network.Load(); n != nil {
		errs = append(errs, n.Warnings())
	}
	if a.tunnels != nil && a.refused() == nil {
		errs = append(errs, noTunnel(a.tunnels.Status()))
	}
	return errors.Join(errs...)
}

// refused is nil unless the servers do not take this node's certificate any more.
func (a *Agent) refused() error {
	if a.cfg.Join == nil {
		return nil
	}
	return a.cfg.Join.Refused()
}

// noTunnel is nil while there is a tunnel: one server may be known by several
// addresses, of which this node reaches only some.
func noTunnel(all []tunnel.Status) error {
	var errs []error
	for _, t := range all {
		if t.Up {
			return nil
		}
		errs = append(errs, fmt.Errorf("no tunnel to server %s since %s, through which it reaches this node: %s", t.Server, t.Since.Format(time.TimeOnly), t.Error))
	}
	return errors.Join(errs...)
}
