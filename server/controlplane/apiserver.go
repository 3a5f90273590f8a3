package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/klog/v2"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"

	"github.com/spf13/pflag"

	"brink/internal/ciphers"
	"brink/internal/commas"
	"brink/internal/componentargs"
	"brink/internal/lifecycle"
	"brink/server/noderecord"
)

// APIServerStopTimeout is how long RunAPIServer may take to return. It covers upstream's own
// waits: for requests in flight, and 20 s in which a database that is away cannot be told to
// remove the server's endpoints.
const APIServerStopTimeout = 30 * time.Second

type apiServer struct {
	cp      *ControlPlane
	options *options.ServerRunOptions
	openAPI *openAPI
	hooks   *hooks
	paths   paths
	gate    *noderecord.Gate
	dialer  Dialer
	names   nodeNames
}

func newAPIServer(cp *ControlPlane, cfg Config) (*apiServer, error) {
	opts := options.NewServerRunOptions()
	useAdmissionPlugins(opts.Admission, cfg)
	fs := merge("kube-apiserver", opts.Flags())
	if err := componentargs.Parse(fs, "kube-apiserver-arg", apiServerDefaults(cfg), cfg.APIServerArgs); err != nil {
		return nil, err
	}
	return &apiServer{
		cp:      cp,
		options: opts,
		openAPI: newOpenAPI(),
		paths:   paths{authenticated: cfg.Authenticated, public: cfg.Public},
		gate:    cfg.Gate,
		dialer:  cfg.Dialer,
	}, nil
}

// apiServerDefaults are brink's settings, in kube-apiserver's own flags.
func apiServerDefaults(cfg Config) []string {
	issuer := "https://kubernetes.default.svc." + cfg.ClusterDomain
	return append(storageDefaults(cfg),
		"advertise-address="+cfg.AdvertiseAddress.String(),
		"bind-address="+cfg.BindAddress.String(),
		// Watches never end by themselves; without this a stop waits for them.
		"shutdown-watch-termination-grace-period=1s",
		"secure-port="+strconv.Itoa(cfg.Port),
		"allow-privileged=true",
		"anonymous-auth=false",
		"authorization-mode=Node,RBAC",
		"client-ca-file="+cfg.Files.ClientCA,
		"enable-aggregator-routing=true",
		"enable-bootstrap-token-auth=true",
		"kubelet-certificate-authority="+cfg.Files.KubeletCA,
		"kubelet-client-certificate="+cfg.Files.KubeletClientCert,
		"kubelet-client-key="+cfg.Files.KubeletClientKey,
		// By name: Dialer finds the node, and every kubelet's serving certificate has
		// the name. Private addresses are not unique among sites.
		"kubelet-preferred-address-types=Hostname,InternalIP,ExternalIP",
		"profiling=false",
		"proxy-client-cert-file="+cfg.Files.ProxyClientCert,
		"proxy-client-key-file="+cfg.Files.ProxyClientKey,
		"requestheader-allowed-names=system:auth-proxy",
		"requestheader-client-ca-file="+cfg.Files.RequestHeaderCA,
		"requestheader-extra-headers-prefix=X-Remote-Extra-",
		"requestheader-group-headers=X-Remote-Group",
		"requestheader-username-headers=X-Remote-User",
		"service-account-issuer="+issuer,
		"service-account-key-file="+cfg.Files.ServiceAccountKey,
		"service-account-signing-key-file="+cfg.Files.ServiceAccountKey,
		"service-cluster-ip-range="+commas.Join(cfg.ServiceCIDRs),
		"tls-cert-file="+cfg.Files.ServingCert,
		"tls-cipher-suites="+ciphers.Names(),
		"tls-min-version=VersionTLS12",
		"tls-private-key-file="+cfg.Files.ServingKey,
	)
}

// storageDefaults are the flags that say where state is.
func storageDefaults(cfg Config) []string {
	args := []string{"etcd-servers=" + cfg.DurableEndpoint}
	if cfg.VolatileEndpoint != cfg.DurableEndpoint {
		args = append(args, "etcd-servers-overrides="+volatileResources(cfg.VolatileEndpoint))
	}
	etcd := cfg.Etcd
	if etcd == nil {
		return args
	}
	for flag, file := range map[string]string{"etcd-cafile": etcd.CAFile, "etcd-certfile": etcd.CertFile, "etcd-keyfile": etcd.KeyFile} {
		if file != "" {
			args = append(args, flag+"="+file)
		}
	}
	return args
}

// volatileResources lists the resources that change all the time and are worthless after a
// power cut. The last two are the API servers' own presence, renewed every ten seconds.
func volatileResources(endpoint string) string {
	var overrides []string
	for _, resource := range []string{"/events", "events.k8s.io/events", "coordination.k8s.io/leases", "/apiServerIPInfo", "/apiServerPeerIPInfo"} {
		overrides = append(overrides, resource+"#"+endpoint)
	}
	return strings.Join(overrides, ",")
}

// merge puts the sections of a component's flags into one set.
func merge(name string, sections cliflag.NamedFlagSets) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	for _, section := range sections.FlagSets {
		fs.AddFlagSet(section)
	}
	return fs
}

// run builds the chain of servers, serves until ctx is done and is ready when /readyz says
// so.
func (a *apiServer) run(ctx context.Context, ready func()) error {
	completed, err := a.options.Complete(ctx)
	if err != nil {
		return fmt.Errorf("completing the flags: %w", err)
	}
	if err := utilerrors.NewAggregate(completed.Validate()); err != nil {
		return fmt.Errorf("checking --kube-apiserver-arg: %w", err)
	}
	recordFeatures()
	a.openAPI.stop, a.openAPI.log = ctx.Done(), lifecycle.Logger(ctx)
	chain, err := a.build(completed)
	if err != nil {
		return err
	}
	prepared, err := chain.PrepareRun()
	if err != nil {
		return fmt.Errorf("preparing the chain of servers: %w", err)
	}
	a.openAPI.prepared()
	a.cp.api.Handle(chain.GenericAPIServer.Handler)
	waitCtx, stopWaiting := context.WithCancel(ctx)
	defer stopWaiting()
	go func() {
		if waitReady(waitCtx, a.cp.ClientConfig(user.APIServerUser, user.SystemPrivilegedGroup)) == nil {
			ready()
		}
	}()
	return prepared.Run(ctx)
}

// build does what upstream's NewConfig does, with one difference for which upstream has no
// hook: the loopback client is the in-memory transport, so the shared informers and
// everything else inside the server use no TLS.
func (a *apiServer) build(opts options.CompletedOptions) (*aggregator.APIAggregator, error) {
	generic, err := a.genericConfig(opts)
	if err != nil {
		return nil, err
	}
	kube, resolver, initializers, err := app.CreateKubeAPIServerConfig(opts, generic.Config, generic.informers, generic.storage)
	if err != nil {
		return nil, fmt.Errorf("configuring the server of Kubernetes' own APIs: %w", err)
	}
	a.dial(kube, generic)
	cp := &kube.ControlPlane
	authWrapper := webhook.NewDefaultAuthenticationInfoResolverWrapper(cp.ProxyTransport, cp.Generic.EgressSelector, cp.Generic.LoopbackClientConfig, cp.Generic.TracerProvider)
	extensions, err := controlplaneapiserver.CreateAPIExtensionsConfig(*cp.Generic, cp.VersionedInformers, initializers, opts.CompletedOptions, opts.MasterCount, resolver, authWrapper)
	if err != nil {
		return nil, fmt.Errorf("configuring the server of custom resources: %w", err)
	}
	aggregated, err := controlplaneapiserver.CreateAggregatorConfig(*cp.Generic, opts.CompletedOptions, cp.VersionedInformers, resolver, cp.ProxyTransport, cp.Extra.PeerProxy, initializers)
	if err != nil {
		return nil, fmt.Errorf("configuring the aggregator: %w", err)
	}
	describeAggregator(&aggregated.GenericConfig.Config)
	config := &app.Config{Options: opts, KubeAPIs: kube, ApiExtensions: extensions, Aggregator: aggregated}
	completed, err := config.Complete()
	if err != nil {
		return nil, fmt.Errorf("completing the configuration: %w", err)
	}
	a.cp.shared = generic.informers
	return a.chain(completed, generic)
}

// chain builds the three servers, each of which passes on what it does not know to the
// next, and installs the OpenAPI endpoints.
func (a *apiServer) chain(completed app.CompletedConfig, generic *genericConfig) (*aggregator.APIAggregator, error) {
	aggregated, err := app.CreateServerChain(completed)
	if err != nil {
		return nil, fmt.Errorf("building the chain of servers: %w", err)
	}
	kube, ok := aggregated.GenericAPIServer.NextDelegate().(*genericapiserver.GenericAPIServer)
	if !ok {
		return nil, errors.New("upstream's chain has no API server behind the aggregator")
	}
	extensions, ok := kube.NextDelegate().(*genericapiserver.GenericAPIServer)
	if !ok {
		return nil, errors.New("upstream's chain has no extensions server behind the API server")
	}
	extra := completed.KubeAPIs.Extra
	if err := a.makeHooksPatient(aggregated.GenericAPIServer, generic, extra.ServiceNodePortRange, extra.RepairServicesInterval); err != nil {
		return nil, fmt.Errorf("preparing what runs after the start: %w", err)
	}
	o := a.openAPI
	o.v2, o.v3 = generic.OpenAPIConfig, generic.OpenAPIV3Config
	o.mutating = generic.informers.Admissionregistration().V1().MutatingAdmissionPolicies()
	o.groups = aggregated.APIRegistrationInformers.Apiregistration().V1().APIServices()
	if err := o.followPolicies(); err != nil {
		return nil, fmt.Errorf("following mutating policies: %w", err)
	}
	o.loopback = generic.LoopbackClientConfig
	o.aggregated = aggregated.GenericAPIServer
	o.kube, o.extensions = newOpenAPIEndpoint(kube), newOpenAPIEndpoint(extensions)
	return aggregated, nil
}

// waitReady polls /readyz in memory; a poll costs microseconds there.
func waitReady(ctx context.Context, config *rest.Config) error {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	lastLog := time.Now()
	return wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+"/readyz?verbose", nil)
		if err != nil {
			return false, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, nil
		}
		defer resp.Body.Close()
		report, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK && time.Since(lastLog) > 10*time.Second {
			lastLog = time.Now()
			klog.InfoS("API server is not ready yet", "failing", failing(string(report)))
		}
		return resp.StatusCode == http.StatusOK, nil
	})
}

// failing returns the failed checks of a verbose readyz report.
func failing(report string) []string {
	var out []string
	for _, line := range strings.Split(report, "\n") {
		if strings.HasPrefix(line, "[-]") {
			out = append(out, strings.TrimPrefix(line, "[-]"))
		}
	}
	return out
}
