package controlplane

import (
	"fmt"
	"net/http"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/filters"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/openapi"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/controlplane"
	controlplaneapiserver "k8s.io/kubernetes/pkg/controlplane/apiserver"
	generatedopenapi "k8s.io/kubernetes/pkg/generated/openapi"
	"k8s.io/kubernetes/pkg/kubeapiserver"

	"brink/server/inmemory"
	"brink/server/noderecord"
)

// resync is how often informers replay their store to handlers: a safety net that queues
// every object in every controller. Upstream has ten minutes in the API server, which
// learns nothing from it, twelve hours in the controller manager and never in the
// scheduler; controllers that need it more often set their own period.
const resync = 12 * time.Hour

// genericConfig is the part of the API server's configuration that the core,
// extension and aggregation servers share.
type genericConfig struct {
	*genericapiserver.Config
	informers informers.SharedInformerFactory
	storage   *serverstorage.DefaultStorageFactory
}

func (a *apiServer) genericConfig(opts options.CompletedOptions) (*genericConfig, error) {
	config := genericapiserver.NewConfig(legacyscheme.Codecs)
	config.MergedResourceConfig = controlplane.DefaultAPIResourceConfigSource()
	config.LoopbackClientConfig = a.cp.api.WrappedConfig(identity(user.APIServerUser, user.SystemPrivilegedGroup))
	client, err := kubernetes.NewForConfig(config.LoopbackClientConfig)
	if err != nil {
		return nil, fmt.Errorf("building the loopback client: %w", err)
	}
	g := &genericConfig{Config: config, informers: informers.NewSharedInformerFactoryWithOptions(client, resync, informers.WithTransform(dropManagedFields))}
	config.BuildHandlerChainFunc = func(h http.Handler, c *genericapiserver.Config) http.Handler {
		return a.paths.outside(a.gated(genericapiserver.DefaultBuildHandlerChain(a.paths.inside(a.names.wrap(a.openAPI.wrap(h))), c)))
	}
	for _, step := range a.genericSteps(opts, g, client) {
		if err := step.apply(); err != nil {
			return nil, fmt.Errorf("applying the flags about %s: %w", step.flags, err)
		}
	}
	return g, nil
}

// genericStep applies one group of upstream's flags.
type genericStep struct {
	flags string
	apply func() error
}

// genericSteps are upstream's steps to g, in upstream's order.
func (a *apiServer) genericSteps(opts options.CompletedOptions, g *genericConfig, client kubernetes.Interface) []genericStep {
	config := g.Config
	return []genericStep{
		{"the generic server", func() error { return opts.GenericServerRunOptions.ApplyTo(config) }},
		// Not ApplyToConfig: that would replace the loopback client by one
		// that speaks TLS to our own port.
		{"secure serving", func() error { return opts.SecureServing.SecureServingOptions.ApplyTo(&config.SecureServing) }},
		{"features", func() error { return opts.Features.ApplyTo(config, client, g.informers) }},
		{"enabled APIs", func() error {
			return opts.APIEnablement.ApplyTo(config, config.MergedResourceConfig, legacyscheme.Scheme)
		}},
		{"the egress selector", func() error { return opts.EgressSelector.ApplyTo(config) }},
		{"tracing", func() error { return opts.Traces.ApplyTo(config.EgressSelector, config) }},
		{"etcd", func() error { return g.applyStorage(opts) }},
		{"the description of APIs", func() error { g.applyAPIDescription(); return nil }},
		{"long requests", func() error { g.LongRunningFunc = a.paths.longRunning(g.LongRunningFunc); return nil }},
		{"authentication and authorization", func() error { return g.applyAuth(opts, client, a.gate) }},
		{"audit", func() error { return opts.Audit.ApplyTo(config) }},
	}
}

// applyStorage connects resources to their etcd endpoints.
func (g *genericConfig) applyStorage(opts options.CompletedOptions) error {
	etcd := opts.Etcd
	etcd.StorageConfig.Transport.TracerProvider = g.TracerProvider
	if g.EgressSelector != nil {
		etcd.StorageConfig.Transport.EgressLookup = g.EgressSelector.Lookup
	}
	factoryConfig := kubeapiserver.NewStorageFactoryConfigEffectiveVersion(g.EffectiveVersion)
	factoryConfig.APIResourceConfig = g.MergedResourceConfig
	factoryConfig.DefaultResourceEncoding.SetEffectiveVersion(g.EffectiveVersion)
	var err error
	if g.storage, err = factoryConfig.Complete(etcd).New(); err != nil {
		return err
	}
	g.storage.StorageConfig.StorageObjectCountTracker = g.StorageObjectCountTracker
	return etcd.ApplyWithStorageFactoryTo(g.storage, g.Config)
}

// applyAPIDescription sets up OpenAPI, aggregated discovery and which requests may last.
func (g *genericConfig) applyAPIDescription() {
	definitions := openapi.GetOpenAPIDefinitionsWithoutDisabledFeatures(generatedopenapi.GetOpenAPIDefinitions)
	namer := openapinamer.NewDefinitionNamer([]*runtime.Scheme{legacyscheme.Scheme, apiextensions.Scheme, aggregatorscheme.Scheme}...)
	g.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	g.OpenAPIConfig.Info.Title = "Kubernetes"
	g.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	g.OpenAPIV3Config.Info.Title = "Kubernetes"
	// The documents are made on demand, see openAPI.
	g.SkipOpenAPIInstallation = true
	g.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	g.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)
}

// describeAggregator gives the aggregator the definitions of its own two kinds. Upstream
// gives it those of all of Kubernetes; it makes its part of the OpenAPI documents at start
// and keeps it.
func describeAggregator(config *genericapiserver.Config) {
	v2, v3 := *config.OpenAPIConfig, *config.OpenAPIV3Config
	v2.GetDefinitions = aggregatoropenapi.GetOpenAPIDefinitions
	v3.GetDefinitions = aggregatoropenapi.GetOpenAPIDefinitions
	v3.Definitions = definitionsV3(&v3)
	config.OpenAPIConfig, config.OpenAPIV3Config = &v2, &v3
}

// definitionsV3 makes the definitions as genericapiserver.DefaultOpenAPIV3Config
// does.
func definitionsV3(config *common.OpenAPIV3Config) map[string]common.OpenAPIDefinition {
	return config.GetDefinitions(func(name string) spec.Ref {
		name, _ = config.GetDefinitionName(name)
		return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(name))
	})
}

// applyAuth sets up authentication and authorization. Identities that the in-memory transport
// asserts are recognised before credentials are looked for.
func (g *genericConfig) applyAuth(opts options.CompletedOptions, client kubernetes.Interface, gate *noderecord.Gate) error {
	ctx := wait.ContextForChannel(g.DrainedNotify())
	err := opts.Authentication.ApplyTo(ctx, &g.Authentication, g.SecureServing, g.EgressSelector, g.OpenAPIConfig, g.OpenAPIV3Config, client, g.informers, g.APIServerID)
	if err != nil {
		return err
	}
	if gate != nil {
		if err := gate.Watch(ctx, g.informers); err != nil {
			return fmt.Errorf("watching the records of nodes: %w", err)
		}
		g.Authentication.Authenticator = gate.Authenticator(g.Authentication.Authenticator)
	}
	g.Authentication.Authenticator = inmemory.Authenticator(g.Authentication.Authenticator)
	var hasRBAC bool
	g.Authorization.Authorizer, g.RuleResolver, hasRBAC, err = controlplaneapiserver.BuildAuthorizer(ctx, opts.CompletedOptions, g.EgressSelector, g.APIServerID, g.informers)
	if err != nil {
		return fmt.Errorf("setting up authorization: %w", err)
	}
	if !hasRBAC {
		g.DisabledPostStartHooks.Insert("rbac/bootstrap-roles")
	}
	return nil
}

// gated puts the gate, if there is one, before a handler chain.
func (a *apiServer) gated(chain http.Handler) http.Handler {
	if a.gate == nil {
		return chain
	}
	return a.gate.Handler(chain)
}

// dropManagedFields removes field ownership from objects in informer caches: no reader of the
// caches needs it, and it is often half of an object.
func dropManagedFields(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil && accessor.GetManagedFields() != nil {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}
