// Package proxy embeds kube-proxy in nftables mode, which serves Services on the node: it
// writes rules by which the kernel sends what is meant for a Service to one of its pods.
// A Service has an address in the cluster, its ClusterIP, and may have a port on every
// node, a NodePort. The package imports k8s.io/kubernetes.
//
// Upstream's constructor builds its own API client from a kubeconfig, so the
// ProxyServer is put together here from its exported parts, and run by
// upstream's Run.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/cmd/kube-proxy/app"
	"k8s.io/kubernetes/pkg/proxy"
	proxyconfig "k8s.io/kubernetes/pkg/proxy/apis/config"
	proxyscheme "k8s.io/kubernetes/pkg/proxy/apis/config/scheme"
	"k8s.io/kubernetes/pkg/proxy/conntrack"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	"k8s.io/kubernetes/pkg/proxy/nftables"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"
	netutils "k8s.io/utils/net"

	"brink/internal/commas"
	"brink/internal/componentargs"
	"brink/internal/lifecycle"
)

// Config is what the service proxy is told of its node and cluster.
type Config struct {
	NodeName string
	NodeIPs  []netip.Addr
	// IPsMayChange serves NodePorts on all of the node's addresses, not only on
	// NodeIPs: upstream reads them once.
	IPsMayChange bool
	ClusterCIDRs []netip.Prefix
	API          *rest.Config // as system:kube-proxy
	Args         []string     // --kube-proxy-arg
	// Changing is called with the kernel settings that may be about to change, and done
	// when they have. It may be nil.
	Changing func(names ...string) (done func())
}

// StopTimeout is short: the rules stay, and only its loops have to end.
const StopTimeout = 5 * time.Second

// Proxy is a configured service proxy.
type Proxy struct {
	cfg    Config
	config *proxyconfig.KubeProxyConfiguration
	health atomic.Pointer[health] // nil until it runs
}

// New parses and validates all flags; nothing is started.
func New(cfg Config) (*Proxy, error) {
	config, err := parse(cfg)
	if err != nil {
		return nil, err
	}
	return &Proxy{cfg: cfg, config: config}, nil
}

// CheckArgs validates the flags as New does, on a machine that has not asked its
// cluster yet.
func CheckArgs(args []string) error {
	_, err := parse(Config{Args: args})
	return err
}

// Health returns nil while Services are served, and one line that says why they are not
// once writing their rules has failed.
func (p *Proxy) Health() error {
	if h := p.health.Load(); h != nil {
		return h.check()
	}
	return nil
}

// HealthPort is where load balancers in front of the cluster ask for the proxy's health,
// upstream's own default.
const HealthPort = 10256

func parse(cfg Config) (*proxyconfig.KubeProxyConfiguration, error) {
	opts := app.NewOptions()
	fs := pflag.NewFlagSet("kube-proxy", pflag.ContinueOnError)
	opts.AddFlags(fs)
	defaults := []string{
		"proxy-mode=nftables",
		"hostname-override=" + cfg.NodeName,
		fmt.Sprintf("healthz-bind-address=0.0.0.0:%d", HealthPort),
	}
	if len(cfg.ClusterCIDRs) > 0 { // none are known to CheckArgs
		defaults = append(defaults, "cluster-cidr="+commas.Join(cfg.ClusterCIDRs))
	}
	if err := componentargs.Parse(fs, "kube-proxy-arg", defaults, cfg.Args); err != nil {
		return nil, err
	}
	if opts.ConfigFile != "" {
		return nil, fmt.Errorf("--kube-proxy-arg: config is not taken; pass single settings as --kube-proxy-arg=NAME=VALUE")
	}
	if err := opts.Complete(fs); err != nil {
		return nil, fmt.Errorf("checking --kube-proxy-arg: %w", err)
	}
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("checking --kube-proxy-arg: %w", err)
	}
	config := configOf(opts)
	if config.Mode != proxyconfig.ProxyModeNFTables {
		return nil, fmt.Errorf("--kube-proxy-arg=proxy-mode=%s: brink serves Services by nftables only", config.Mode)
	}
	if !asksForMetrics(cfg.Args) {
		// Its metrics are in the process's registry, which the kubelet and
		// the API server serve with authentication. Upstream's flags cannot
		// say "off": an empty address is not valid, and port 0 becomes one.
		config.MetricsBindAddress = ""
	}
	return config, nil
}

// asksForMetrics reports whether the user wants a port for metrics.
func asksForMetrics(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool { return componentargs.Name(arg) == "metrics-bind-address" })
}

// configOf reads the configuration that the flags were parsed into. Upstream
// keeps it in an unexported field and exports no accessor; a test notices when
// the field moves.
func configOf(opts *app.Options) *proxyconfig.KubeProxyConfiguration {
	field := reflect.ValueOf(opts).Elem().FieldByName("config")
	return (*proxyconfig.KubeProxyConfiguration)(field.UnsafePointer())
}

// Run serves until ctx is done. It is ready when the first rules are written.
func (p *Proxy) Run(ctx context.Context, ready func()) error {
	client, err := kubernetes.NewForConfig(p.cfg.API)
	if err != nil {
		return err
	}
	return p.serve(ctx, client, ready)
}

// serve serves until ctx is done.
func (p *Proxy) serve(ctx context.Context, client kubernetes.Interface, ready func()) error {
	h := &health{families: neededFamilies(p.cfg), log: lifecycle.Logger(ctx)}
	server, err := p.newServer(ctx, client, h)
	if err != nil {
		return err
	}
	p.health.Store(h)
	// Upstream's Run watches no context; it ends with the process.
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	go func() {
		if h.wait(ctx, server.Proxier.Sync) {
			ready()
			newRepairer(h.log, servedFamilies(server.PrimaryIPFamily), server.Proxier.(*resyncing).resync).run(ctx)
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return nil
	}
}

// conntrackSettings are the kernel settings that upstream may change.
var conntrackSettings = []string{
	"net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_tcp_timeout_established", "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
	"net/netfilter/nf_conntrack_tcp_be_liberal", "net/netfilter/nf_conntrack_udp_timeout", "net/netfilter/nf_conntrack_udp_timeout_stream",
}

func (p *Proxy) setConntrack(ctx context.Context) error {
	if p.cfg.Changing != nil {
		defer p.cfg.Changing(conntrackSettings...)()
	}
	return conntrack.SetSysctls(ctx, &p.config.Linux.Conntrack)
}

func (p *Proxy) newServer(ctx context.Context, client kubernetes.Interface, h *health) (*app.ProxyServer, error) {
	cfg, config := p.cfg, p.config
	node, err := proxy.NewNodeManager(ctx, client, config.ConfigSyncPeriod.Duration, cfg.NodeName, false)
	if err != nil {
		return nil, fmt.Errorf("watching the node: %w", err)
	}
	if err := p.setConntrack(ctx); errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		// The limit is the machine's. In a container or a network namespace it is
		// read-only, and the machine's owner has chosen it.
		lifecycle.Logger(ctx).Info("connection tracking limits are left as they are", "reason", err)
	} else if err != nil {
		return nil, fmt.Errorf("setting conntrack limits: %w", err)
	}
	s := &app.ProxyServer{
		Config:        config,
		Client:        client,
		NodeName:      cfg.NodeName,
		NodeRef:       &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: cfg.NodeName},
		NodeManager:   node,
		Broadcaster:   events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()}),
		HealthzServer: healthcheck.NewProxyHealthServer(config.HealthzBindAddress, 2*config.SyncPeriod.Duration, node),
	}
	s.Recorder = s.Broadcaster.NewRecorder(proxyscheme.Scheme, "kube-proxy")
	s.PrimaryIPFamily, s.NodeIPs = families(cfg.NodeIPs)
	if cfg.IPsMayChange {
		resolvePrimary(config, nil)
	} else {
		resolvePrimary(config, cfg.NodeIPs)
	}
	h.server = s.HealthzServer
	proxier, err := newProxier(h.listen(ctx), cfg, s)
	s.Proxier = &resyncing{Provider: proxier}
	return s, err
}

// servedFamilies returns both families where the kernel has both, as upstream does.
func servedFamilies(primary corev1.IPFamily) []corev1.IPFamily {
	if hasIPv6() {
		return []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
	return []corev1.IPFamily{primary}
}

// neededFamilies returns the families of the pods' addresses. A kernel may lack what
// the rules of the other family need, which no Service needs.
func neededFamilies(cfg Config) []corev1.IPFamily {
	var out []corev1.IPFamily
	for _, p := range cfg.ClusterCIDRs {
		out = append(out, familyOf(p.Addr()))
	}
	if len(out) == 0 {
		primary, _ := families(cfg.NodeIPs)
		out = append(out, primary)
	}
	return out
}

func newProxier(ctx context.Context, cfg Config, s *app.ProxyServer) (proxy.Provider, error) {
	c := s.Config
	local := localDetectors(cfg.ClusterCIDRs)
	if len(servedFamilies(s.PrimaryIPFamily)) > 1 {
		return nftables.NewDualStackProxier(ctx, c.SyncPeriod.Duration, c.MinSyncPeriod.Duration, c.Linux.MasqueradeAll, int(*c.NFTables.MasqueradeBit),
			local, s.NodeName, s.NodeIPs, s.Recorder, s.HealthzServer, c.NodePortAddresses, false)
	}
	family := s.PrimaryIPFamily
	return nftables.NewProxier(ctx, family, c.SyncPeriod.Duration, c.MinSyncPeriod.Duration, c.Linux.MasqueradeAll, int(*c.NFTables.MasqueradeBit),
		local[family], s.NodeName, s.NodeIPs[family], s.Recorder, s.HealthzServer, c.NodePortAddresses, false)
}

// localDetectors recognize pods' traffic by its source address.
func localDetectors(clusterCIDRs []netip.Prefix) map[corev1.IPFamily]proxyutil.LocalTrafficDetector {
	local := map[corev1.IPFamily]proxyutil.LocalTrafficDetector{
		corev1.IPv4Protocol: proxyutil.NewNoOpLocalDetector(),
		corev1.IPv6Protocol: proxyutil.NewNoOpLocalDetector(),
	}
	for _, p := range clusterCIDRs {
		local[familyOf(p.Addr())] = proxyutil.NewDetectLocalByCIDR(p.String())
	}
	return local
}

// families returns the primary family, that of the first address, and one
// address a family, loopback where the node has none.
func families(nodeIPs []netip.Addr) (corev1.IPFamily, map[corev1.IPFamily]net.IP) {
	ips := map[corev1.IPFamily]net.IP{
		corev1.IPv4Protocol: netutils.ParseIPSloppy("127.0.0.1"),
		corev1.IPv6Protocol: netutils.ParseIPSloppy("::1"),
	}
	primary := corev1.IPv4Protocol
	for i, a := range nodeIPs {
		if i == 0 {
			primary = familyOf(a)
		}
		ips[familyOf(a)] = net.IP(a.AsSlice())
	}
	return primary, ips
}

// resolvePrimary replaces the word "primary", upstream's default for the addresses on
// which NodePorts are served, by the node's addresses. No addresses means all but
// loopback.
func resolvePrimary(config *proxyconfig.KubeProxyConfiguration, nodeIPs []netip.Addr) {
	if !slices.Equal(config.NodePortAddresses, []string{proxyconfig.NodePortAddressesPrimary}) {
		return
	}
	config.NodePortAddresses = nil
	for _, a := range nodeIPs {
		config.NodePortAddresses = append(config.NodePortAddresses, netip.PrefixFrom(a, a.BitLen()).String())
	}
}

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
