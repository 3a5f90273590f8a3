// Package controlplane embeds kube-apiserver, kube-controller-manager and kube-scheduler. It
// is the only package of the server that imports k8s.io/kubernetes, which costs minutes to
// compile and carries process globals.
//
// The components share what they would duplicate as separate processes: clients reach the API
// server through server/inmemory, and there is one informer factory, the API server's own,
// for its admission and authorization, for the controllers and for the scheduler. The
// controllers and the scheduler do not elect leaders, because there is one of each.
//
// The upstream commands (cobra) are not used: they install signal handlers and apply logging,
// and panic when a second one does so. Their options are used, so every upstream flag exists
// under its own name.
//
// Files are grouped by component: controlplane.go, apiserver*.go, controllers*.go and
// scheduler.go. effects.go has what upstream's main packages import for its side effects.
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

// Files are the paths of keys and certificates that the control plane reads. It reads leaf
// certificates again when they change.
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

// Etcd is an etcd that somebody else runs.
type Etcd struct {
	CAFile, CertFile, KeyFile string // TLS to it; each may be empty
}

// Config is what a ControlPlane has to know.
type Config struct {
	BindAddress      netip.Addr // what the HTTPS port listens on
	Port             int        // HTTPS port
	AdvertiseAddress netip.Addr // the endpoint of the Service kubernetes
	OwnNode          string     // the node in this process, empty without one
	// OwnIPs are the addresses of this server's machine, OuterIPs further ones by which it
	// is reached. No other node may claim them.
	OwnIPs, OuterIPs []netip.Addr
	// HolderOf returns a node other than except that has proved to have ip, "" when there
	// is none. Nil means that there never is.
	HolderOf         func(ip netip.Addr, except string) string
	ClusterCIDRs     []netip.Prefix
	ServiceCIDRs     []netip.Prefix
	ClusterDomain    string
	DurableEndpoint  string // etcd endpoints of everything that matters
	VolatileEndpoint string // etcd endpoints of leases and events; may be the same
	Etcd             *Etcd  // nil when brink serves the endpoints itself
	Files            Files
	VolumePlugins    string // directory of FlexVolume drivers, made when missing

	// Authenticated and Public answer requests to exactly these paths of the HTTPS port.
	// Requests to Authenticated went through authentication, authorization and audit, and
	// may last; the user is in the request's context. Requests to Public did not go
	// through anything and come from anyone.
	Authenticated, Public map[string]http.Handler
	// Gate judges the certificates of nodes; nil accepts all that are valid.
	Gate *noderecord.Gate
	// Dialer makes the connections to nodes and pods; nil dials directly. It is not used
	// when the user configures an egress selector.
	Dialer Dialer

	// Flags passed through to the components, each "name=value".
	APIServerArgs, ControllerArgs, SchedulerArgs []string
	// Debug raises the verbosity of requests' and controllers' logs.
	Debug bool
}

// Dialer makes the API server's connections to kubelets (logs, exec, port-forward) and to
// pods, nodes and the endpoints of Services (proxying, webhooks, aggregated API servers).
// Addresses are as in package net; a kubelet's host is the name of its node.
type Dialer interface {
	DialKubelet(ctx context.Context, network, address string) (net.Conn, error)
	DialPod(ctx context.Context, network, address string) (net.Conn, error)
	// Use is called once before the first connection, with the listers of the shared
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

// New parses and validates all flags. It opens and starts nothing, but it sets the process's
// feature gates. Every error names the flag that it is about.
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
	// Feature gates of all components are one set of process globals. They take effect
	// here, once, after all components' flags were parsed and before anything reads them.
	if err := compatibility.DefaultComponentGlobalsRegistry.Set(); err != nil {
		return nil, fmt.Errorf("%s: %w", gateArgs(cfg), err)
	}
	return cp, cp.validate()
}

// gateArgs returns the user's flags about feature gates and versions, for an error:
// upstream's own does not say which component it is about.
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

// ClientConfig returns a client configuration for the in-memory transport that acts as the
// given identity. Requests fail until the API server serves.
func (cp *ControlPlane) ClientConfig(name string, groups ...string) *rest.Config {
	return cp.api.Config(identity(name, groups...))
}

// Informers returns the API server's own informers, which the controllers and the scheduler
// share. It returns nil before the API server is ready.
func (cp *ControlPlane) Informers() informers.SharedInformerFactory { return cp.shared }

// identity returns the user that a certificate with this name and these groups proves.
func identity(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
}
