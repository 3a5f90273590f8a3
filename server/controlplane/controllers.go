package controlplane

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/discovery"
	cacheddiscovery "k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/util/keyutil"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	"k8s.io/controller-manager/pkg/informerfactory"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/config"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	saccontroller "k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/serviceaccount"

	"brink/internal/commas"
	"brink/internal/componentargs"
)

const (
	// inMemoryMaster satisfies upstream's options, which require the URL of an API
	// server. No client uses it.
	inMemoryMaster = "https://kubernetes.default.svc"
	// restMapperReset is upstream's period for finding new kinds (CRDs).
	restMapperReset = 30 * time.Second
	// controllerShutdown bounds the wait for controllers to end.
	controllerShutdown = 8 * time.Second
)

type controllerManager struct {
	cp      *ControlPlane
	options *options.KubeControllerManagerOptions
}

func newControllerManager(cp *ControlPlane, cfg Config) (*controllerManager, error) {
	opts, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	fs := merge("kube-controller-manager", opts.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases()))
	if err := componentargs.Parse(fs, "kube-controller-manager-arg", controllerDefaults(cfg), cfg.ControllerArgs); err != nil {
		return nil, err
	}
	// The API server's port has the metrics and health of the whole process; a second
	// port with its own certificate would serve the same registry.
	opts.SecureServing.BindPort = 0
	opts.Generic.LeaderElection.LeaderElect = false
	opts.Master = inMemoryMaster
	return &controllerManager{cp: cp, options: opts}, nil
}

func controllerDefaults(cfg Config) []string {
	f := cfg.Files
	defaults := []string{
		"allocate-node-cidrs=true",
		"cluster-cidr=" + commas.Join(cfg.ClusterCIDRs),
		"service-cluster-ip-range=" + commas.Join(cfg.ServiceCIDRs),
		"cluster-signing-kube-apiserver-client-cert-file=" + f.ClientCA,
		"cluster-signing-kube-apiserver-client-key-file=" + f.ClientCAKey,
		"cluster-signing-kubelet-client-cert-file=" + f.ClientCA,
		"cluster-signing-kubelet-client-key-file=" + f.ClientCAKey,
		"cluster-signing-kubelet-serving-cert-file=" + f.KubeletCA,
		"cluster-signing-kubelet-serving-key-file=" + f.KubeletCAKey,
		"cluster-signing-legacy-unknown-cert-file=" + f.ServerCA,
		"cluster-signing-legacy-unknown-key-file=" + f.ServerCAKey,
		"configure-cloud-routes=false",
		// Without bootstrapsigner, which signs a ConfigMap that only kubeadm makes, and
		// without tokencleaner, whose work server/join does.
		"controllers=*",
		// Upstream's default is in /usr, and the directory is made at every start.
		"flex-volume-plugin-dir=" + cfg.VolumePlugins,
		"profiling=false",
		"root-ca-file=" + f.ServerCA,
		"service-account-private-key-file=" + f.ServiceAccountKey,
		"use-service-account-credentials=true",
	}
	return append(defaults, nodeMasks(cfg)...)
}

// nodeMasks returns the flags for the size of a node's share of each pod network.
func nodeMasks(cfg Config) []string {
	if len(cfg.ClusterCIDRs) == 1 {
		return []string{fmt.Sprintf("node-cidr-mask-size=%d", NodeMask(cfg.ClusterCIDRs[0]))}
	}
	var out []string
	for _, p := range cfg.ClusterCIDRs {
		family := "ipv6"
		if p.Addr().Is4() {
			family = "ipv4"
		}
		out = append(out, fmt.Sprintf("node-cidr-mask-size-%s=%d", family, NodeMask(p)))
	}
	return out
}

// NodeMask returns the prefix length of a node's share of a pod network: /24 or /64, or the
// whole network if it is smaller. Upstream's allocator keeps a bitmap of all shares and
// refuses IPv6 networks that would have more than 2^16 of them.
func NodeMask(pods netip.Prefix) int {
	if pods.Addr().Is4() {
		return max(24, pods.Bits())
	}
	return min(max(64, pods.Bits()), pods.Bits()+16)
}

func (m *controllerManager) validate() error {
	err := m.options.Validate(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return fmt.Errorf("checking --kube-controller-manager-arg: %w", err)
	}
	return nil
}

// run runs all controllers on the shared informers. It is ready when they are started: each
// waits for its caches by itself.
func (m *controllerManager) run(ctx context.Context, ready func()) error {
	completed, err := m.config(ctx)
	if err != nil {
		return fmt.Errorf("configuring controllers: %w", err)
	}
	events, err := kubernetes.NewForConfig(m.cp.ClientConfig("system:kube-controller-manager"))
	if err != nil {
		return err
	}
	stopEvents := recordEvents(completed, events)
	defer stopEvents()
	held := newHeldFactory(m.cp.shared)
	controllerContext, err := m.context(ctx, completed, held)
	if err != nil {
		return fmt.Errorf("making the controllers' clients: %w", err)
	}
	controllers, err := m.build(ctx, controllerContext)
	if err != nil {
		return fmt.Errorf("building controllers: %w", err)
	}
	if err := held.release(); err != nil {
		return fmt.Errorf("adding the controllers' event handlers: %w", err)
	}
	controllerContext.InformerFactory.Start(ctx.Done())
	controllerContext.ObjectOrMetadataInformerFactory.Start(ctx.Done())
	close(controllerContext.InformersStarted)
	ready()
	if !app.RunControllers(ctx, controllerContext, controllers, app.ControllerStartJitter, controllerShutdown) {
		return fmt.Errorf("controllers still running after %s", controllerShutdown)
	}
	return nil
}

// config turns flags into component configuration. Upstream makes clients of its --master
// there too, which context replaces.
func (m *controllerManager) config(ctx context.Context) (*config.CompletedConfig, error) {
	c, err := m.options.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return nil, err
	}
	return c.Complete(), nil
}

// recordEvents sends the controllers' events to the API until stop is called.
func recordEvents(c *config.CompletedConfig, client kubernetes.Interface) (stop func()) {
	c.EventBroadcaster.StartRecordingToSink(eventSink(client))
	return c.EventBroadcaster.Shutdown
}

// context makes what upstream's CreateControllerContext makes, on the API server's informers
// instead of a second set.
func (m *controllerManager) context(ctx context.Context, c *config.CompletedConfig, shared informers.SharedInformerFactory) (app.ControllerContext, error) {
	root := m.cp.ClientConfig("system:kube-controller-manager")
	metadataClient, err := metadata.NewForConfig(root)
	if err != nil {
		return app.ControllerContext{}, err
	}
	mapper, err := m.restMapper(ctx)
	if err != nil {
		return app.ControllerContext{}, err
	}
	metadataInformers := metadatainformer.NewSharedInformerFactoryWithOptions(metadataClient, app.ResyncPeriod(c)(), metadatainformer.WithTransform(dropManagedFields))
	cc := app.ControllerContext{
		ClientBuilder:                   controllerClients{m.cp.api},
		InformerFactory:                 shared,
		ObjectOrMetadataInformerFactory: informerfactory.NewInformerFactory(shared, metadataInformers),
		ComponentConfig:                 c.ComponentConfig,
		RESTMapper:                      mapper,
		InformersStarted:                make(chan struct{}),
		ResyncPeriod:                    app.ResyncPeriod(c),
		ControllerManagerMetrics:        controllersmetrics.NewControllerManagerMetrics("kube-controller-manager"),
	}
	collects := cc.IsControllerEnabled(app.NewControllerDescriptors()[names.GarbageCollectorController])
	if gc := cc.ComponentConfig.GarbageCollectorController; gc.EnableGarbageCollector && collects {
		ignored := map[schema.GroupResource]struct{}{}
		for _, r := range gc.GCIgnoredResources {
			ignored[schema.GroupResource{Group: r.Group, Resource: r.Resource}] = struct{}{}
		}
		cc.GraphBuilder = garbagecollector.NewDependencyGraphBuilder(ctx, metadataClient, mapper, ignored, cc.ObjectOrMetadataInformerFactory, cc.InformersStarted)
	}
	controllersmetrics.Register()
	return cc, nil
}

func (m *controllerManager) restMapper(ctx context.Context) (*restmapper.DeferredDiscoveryRESTMapper, error) {
	client, err := discovery.NewDiscoveryClientForConfig(m.cp.ClientConfig("system:kube-controller-manager"))
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cacheddiscovery.NewMemCacheClient(client))
	go wait.UntilWithContext(ctx, func(context.Context) { mapper.Reset() }, restMapperReset)
	return mapper, nil
}

// build constructs every enabled controller. Upstream builds the controller of token Secrets
// apart from the others, with a constructor that it does not export.
func (m *controllerManager) build(ctx context.Context, cc app.ControllerContext) ([]app.Controller, error) {
	descriptors := app.NewControllerDescriptors()
	tokens := descriptors[names.ServiceAccountTokenController]
	delete(descriptors, names.ServiceAccountTokenController)
	var built []app.Controller
	if cc.IsControllerEnabled(tokens) {
		controller, err := m.tokenController(ctx, cc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", names.ServiceAccountTokenController, err)
		}
		built = append(built, controller)
	}
	controllers, err := app.BuildControllers(ctx, cc, descriptors, nil, noHealthz{})
	return append(built, controllers...), err
}

func (m *controllerManager) tokenController(ctx context.Context, cc app.ControllerContext) (app.Controller, error) {
	sa := cc.ComponentConfig.SAController
	key, err := keyutil.PrivateKeyFromFile(sa.ServiceAccountKeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the service account key: %w", err)
	}
	rootCA, err := os.ReadFile(sa.RootCAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the root CA: %w", err)
	}
	generator, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(m.cp.ClientConfig("system:kube-controller-manager"))
	if err != nil {
		return nil, err
	}
	core := cc.InformerFactory.Core().V1()
	tokens, err := saccontroller.NewTokensController(klog.FromContext(ctx), core.ServiceAccounts(), core.Secrets(), client,
		saccontroller.TokensControllerOptions{TokenGenerator: generator, RootCA: rootCA})
	if err != nil {
		return nil, err
	}
	workers := int(sa.ConcurrentSATokenSyncs)
	return loop{name: names.ServiceAccountTokenController, run: func(ctx context.Context) { tokens.Run(ctx, workers) }}, nil
}

// loop is a controller that consists of one function.
type loop struct {
	name string
	run  func(context.Context)
}

func (l loop) Name() string            { return l.name }
func (l loop) Run(ctx context.Context) { l.run(ctx) }

// noHealthz drops the controllers' health checks, which upstream serves on a port that brink
// does not open. Controllers that fail log it.
type noHealthz struct{}

func (noHealthz) AddHealthChecker(...healthz.HealthChecker) {}
