// Package controlplane embeds kube-apiserver, kube-controller-manager and
// kube-scheduler. It is one of the few packages that import k8s.io/kubernetes:
// that costs minutes to compile and carries process globals, so nothing else of
// the server does.
//
// What the components would duplicate as separate processes they share here:
// clients reach the API server through server/inmemory, and there is one
// informer factory, the API server's own, for its admission and authorization,
// for the controllers and for the scheduler. The controllers and the scheduler
// do not elect leaders: in a process with one of each there is nothing to win.
//
// The upstream commands (cobra) are not used. They install signal handlers,
// apply logging and panic when a second one does. Their options are used, so
// every upstream flag is there under its own name.
package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/util/compatibility"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"

	"brink/internal/componentargs"
	"brink/server/inmemory"
	"brink/server/noderecord"
)

// Files are the paths of keys and certificates that the control plane reads.
// Leaf certificates are read again when they change.
type Files struct {
	ServerCA, ServerCAKey               string // signs the API server's certificate
	KubeletCA, KubeletCAKey             string // signs kubelets' serving certificates
	ClientCA, ClientCAKey               string // signs client certificates
	RequestHeaderCA                     string // signs the front proxy's certificate
	ServingCert, ServingKey             string
	KubeletClientCert, KubeletClientKey string
	ProxyClientCert, ProxyClientKey     string
	ServiceAccountKey                   string // ECDSA, PEM
}

// Etcd is about an etcd that somebody else runs.
type Etcd struct {
	CAFile, CertFile, KeyFile string // TLS to it; each may be empty
}

// Config says what to run.
type Config struct {
	BindAddress      netip.Addr // what the HTTPS port listens on
	Port             int        // HTTPS port
	AdvertiseAddress netip.Addr // what the kubernetes Service leads to
	OwnNode          string     // the node in this process, empty without one
	// OwnIPs are the addresses of this server's machine, OuterIPs further ones by which
	// it is reached: no other node may say that they are its own.
	OwnIPs, OuterIPs []netip.Addr
	// HolderOf returns another node that proves to have an address, "" when none does;
	// nil knows of none.
	HolderOf         func(ip netip.Addr, except string) string
	ClusterCIDRs     []netip.Prefix
	ServiceCIDRs     []netip.Prefix
	ClusterDomain    string
	DurableEndpoint  string // etcd endpoints of everything that matters
	VolatileEndpoint string // etcd endpoints of leases and events; may be the same
	Etcd             *Etcd  // nil when brink serves the endpoints itself
	Files            Files
	VolumePlugins    string // directory of FlexVolume drivers, made when missing

	// Authenticated and Public answer requests to exactly these paths of the
	// HTTPS port. Those of Authenticated went through authentication,
	// authorization and audit, and may last as long as they like; the user is in
	// the request's context. Those of Public did not, and come from anyone.
	Authenticated, Public map[string]http.Handler
	// Gate judges certificates of nodes; nil believes all that are valid.
	Gate *noderecord.Gate
	// Dialer makes the connections to nodes and pods; nil dials them directly.
	// It is not asked when the user configures an egress selector.
	Dialer Dialer

	// Flags passed through to the components, each "name=value".
	APIServerArgs, ControllerArgs, SchedulerArgs []string
	// Debug raises the verbosity of requests' and controllers' logs.
	Debug bool
}

// Dialer makes the connections that the API server opens to kubelets (logs, exec,
// port-forward) and to pods, nodes and what is behind Services (proxying,
// webhooks, aggregated API servers). Addresses are as in package net; a kubelet's
// host is the name of its node.
type Dialer interface {
	DialKubelet(ctx context.Context, network, address string) (net.Conn, error)
	DialPod(ctx context.Context, network, address string) (net.Conn, error)
	// Use is called once, before the first Dial: the listers of the shared
	// informers.
	Use(corelisters.NodeLister, corelisters.PodLister)
}

// ControlPlane is a configured control plane that has not been started.
type ControlPlane struct {
	apiServer   *apiServer
	controllers *controllerManager
	scheduler   *schedulerComponent

	api    *inmemory.Server
	shared informers.SharedInformerFactory
}

// New parses all flags and validates them; nothing is opened or started. Every
// error names the flag it is about.
func New(cfg Config) (*ControlPlane, error) {
	quietEtcdClient()
	cp := &ControlPlane{api: &inmemory.Server{}}
	if cfg.Etcd != nil {
		dialEtcdSoon()
	}
	var err error
	if cp.apiServer, err = newAPIServer(cp, cfg); err != nil {
		return nil, err
	}
	if cp.controllers, err = newControllerManager(cp, cfg); err != nil {
		return nil, err
	}
	if cp.scheduler, err = newScheduler(cp, cfg); err != nil {
		return nil, err
	}
	// Feature gates of all components are one set of process globals. They
	// take effect here, once, after every component's flags were parsed and
	// before anything reads them.
	if err := compatibility.DefaultComponentGlobalsRegistry.Set(); err != nil {
		return nil, fmt.Errorf("%s: %w", gateArgs(cfg), err)
	}
	return cp, cp.validate()
}

// gateArgs is what the user has said about feature gates and versions, for an
// error: upstream's does not say which component it is about.
func gateArgs(cfg Config) string {
	var out []string
	add := func(option string, args []string) {
		for _, arg := range args {
			switch componentargs.Name(arg) {
			case "feature-gates", "emulated-version", "min-compatibility-version":
				out = append(out, "--"+option+"="+arg)
			}
		}
	}
	add("kube-apiserver-arg", cfg.APIServerArgs)
	add("kube-controller-manager-arg", cfg.ControllerArgs)
	add("kube-scheduler-arg", cfg.SchedulerArgs)
	if len(out) == 0 {
		return "setting feature gates"
	}
	return strings.Join(out, ", ")
}

func (cp *ControlPlane) validate() error {
	if err := cp.controllers.validate(); err != nil {
		return err
	}
	return cp.scheduler.validate()
}

// RunAPIServer serves the Kubernetes API until ctx is done, and is ready when /readyz
// says so. It comes before the two others, which use its informers.
func (cp *ControlPlane) RunAPIServer(ctx context.Context, ready func()) error {
	return cp.apiServer.run(ctx, ready)
}

// RunControllers runs kube-controller-manager's controllers until ctx is done.
func (cp *ControlPlane) RunControllers(ctx context.Context, ready func()) error {
	return cp.controllers.run(ctx, ready)
}

// RunScheduler schedules pods until ctx is done.
func (cp *ControlPlane) RunScheduler(ctx context.Context, ready func()) error {
	return cp.scheduler.run(ctx, ready)
}

// ClientConfig returns a client configuration that acts as the given identity
// by the in-memory transport. Requests fail until the API server serves.
func (cp *ControlPlane) ClientConfig(name string, groups ...string) *rest.Config {
	return cp.api.Config(identity(name, groups...))
}

// Informers are the API server's own, which the controllers and the scheduler
// share. There are none before the API server is ready.
func (cp *ControlPlane) Informers() informers.SharedInformerFactory { return cp.shared }

// identity is a user as its certificate would prove it.
func identity(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}
