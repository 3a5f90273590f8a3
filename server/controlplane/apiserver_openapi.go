package controlplane

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	crdhelpers "k8s.io/apiextensions-apiserver/pkg/apihelpers"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	crdinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	crdopenapi "k8s.io/apiextensions-apiserver/pkg/controller/openapi"
	crdopenapiv3 "k8s.io/apiextensions-apiserver/pkg/controller/openapiv3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	admissioninformers "k8s.io/client-go/informers/admissionregistration/v1"
	"k8s.io/client-go/rest"
	aggregatorinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"brink/internal/footprint"
)

// openAPIIdle is how long the documents are kept when nobody asks for them.
const openAPIIdle = 10 * time.Minute

// trimAfter is how long memory is not trimmed after the documents were made: until then
// whoever waited for them has an answer.
const trimAfter = 10 * time.Second

// openAPI serves the descriptions of all APIs (kubectl explain, apply). It makes them on
// demand and releases them ten minutes after they were last wanted. Upstream makes them at
// every start, which costs a second or two of a PC's processor, many seconds of a board's,
// and half of the heap, on machines where they are rarely used.
//
// The aggregator asks the servers behind it once a second; while there are no documents they
// answer with empty ones.
type openAPI struct {
	v2 *common.Config
	v3 *common.OpenAPIV3Config
	// mutating has the policies whose evaluation needs the documents, groups the API
	// groups that they may be about.
	mutating admissioninformers.MutatingAdmissionPolicyInformer
	groups   aggregatorinformers.APIServiceInformer

	loopback   *rest.Config
	aggregated *genericapiserver.GenericAPIServer
	kube       *openAPIEndpoint
	extensions *openAPIEndpoint

	documents onDemand
	made      atomic.Bool // and not released
	stop      <-chan struct{}
	log       *slog.Logger // the component's once it runs
}

func newOpenAPI() *openAPI {
	o := &openAPI{log: slog.Default()}
	o.documents = onDemand{idle: openAPIIdle, make: o.make}
	return o
}

// openAPIEndpoint answers requests for the documents of one of the servers.
type openAPIEndpoint struct {
	server  *genericapiserver.GenericAPIServer
	current atomic.Pointer[mux.PathRecorderMux]
}

// newOpenAPIEndpoint installs the endpoint of a server. It must be called before PrepareRun,
// in which the aggregator asks for the first time.
func newOpenAPIEndpoint(server *genericapiserver.GenericAPIServer) *openAPIEndpoint {
	endpoint := &openAPIEndpoint{server: server}
	paths := server.Handler.NonGoRestfulMux
	paths.Handle("/openapi/v2", endpoint)
	paths.Handle("/openapi/v3", endpoint)
	paths.HandlePrefix("/openapi/v3/", endpoint)
	return endpoint
}

// emptyDocuments are answered while there are no documents. After an error the aggregator
// would go on with the last document that it got.
var emptyDocuments = map[string]string{
	"/openapi/v2": `{"swagger":"2.0","info":{"title":"Kubernetes","version":"empty"},"paths":{},"definitions":{}}`,
	"/openapi/v3": `{"paths":{}}`,
}

func (p *openAPIEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if made := p.current.Load(); made != nil {
		made.ServeHTTP(w, r)
		return
	}
	document, ok := emptyDocuments[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Etag", `"empty"`)
	_, _ = io.WriteString(w, document)
}

// make builds the server's documents and serves them until they are released.
func (p *openAPIEndpoint) make(v2 *common.Config, v3 *common.OpenAPIV3Config) (*handler.OpenAPIService, *spec.Swagger, *handler3.OpenAPIService) {
	made := mux.NewPathRecorderMux("openapi")
	container := p.server.Handler.GoRestfulContainer
	service2, static := routes.OpenAPI{Config: v2}.InstallV2(container, made)
	service3 := routes.OpenAPI{V3Config: v3}.InstallV3(container, made)
	p.current.Store(made)
	return service2, static, service3
}

// prepared is called when PrepareRun is done.
func (o *openAPI) prepared() {
	o.forgetDefinitions()
	// The aggregator keeps its first answer for good, as its fallback. It should be the
	// empty documents.
	o.ask("/openapi/v2", "application/json")
}

// forgetDefinitions releases the definitions of all kinds, from which the documents and, at
// the start, the rules for merging fields are made.
func (o *openAPI) forgetDefinitions() { o.v3.Definitions = nil }

// wrap has the documents made before a request for them is answered.
func (o *openAPI) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasPrefix(r.URL.Path, "/openapi/"):
		case isPoll(r):
			if o.answerPoll(w) {
				return
			}
		default:
			if err := o.documents.want(); err != nil {
				w.Header().Set("Retry-After", "1")
				http.Error(w, "making the OpenAPI documents: "+err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// make builds the documents of all servers and returns when the aggregator has them.
func (o *openAPI) make() (release func(), err error) {
	begun := time.Now()
	ctx, cancel := context.WithCancel(wait.ContextForChannel(o.stop))
	undo := func() {
		cancel()
		o.release()
	}
	done := false
	defer func() {
		if !done { // failed, or panicked
			undo()
		}
	}()
	o.v3.Definitions = definitionsV3(o.v3)
	defer o.forgetDefinitions()
	o.kube.make(o.v2, o.v3)
	custom, err := o.followCRDs(ctx)
	if err != nil {
		return nil, err
	}
	o.waitAggregated(ctx, append(custom, `"api/v1"`))
	o.log.Debug("OpenAPI documents made", "took", time.Since(begun))
	done = true
	// Making the documents leaves as much garbage as they have bytes.
	time.AfterFunc(trimAfter, footprint.Trim)
	o.made.Store(true)
	return undo, nil
}

// release releases the documents. The aggregator keeps copies until it finds other
// documents, and it looks for these only when it is asked. So release asks it, once for each
// format.
func (o *openAPI) release() {
	o.made.Store(false)
	o.kube.current.Store(nil)
	o.extensions.current.Store(nil)
	for _, format := range []string{"application/json", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"} {
		o.ask("/openapi/v2", format)
	}
	o.log.Debug("OpenAPI documents released")
	go footprint.Trim()
}

// followCRDs adds the documents of custom resources and keeps them up to date until ctx is
// done, as upstream's post-start hook would. It returns the paths of the present ones,
// quoted as in the list of documents.
func (o *openAPI) followCRDs(ctx context.Context) ([]string, error) {
	client, err := crdclient.NewForConfig(o.loopback)
	if err != nil {
		return nil, err
	}
	existing, err := client.ApiextensionsV1().CustomResourceDefinitions().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing custom resources: %w", err)
	}
	service2, static, service3 := o.extensions.make(o.v2, o.v3)
	factory := crdinformers.NewSharedInformerFactory(client, resync)
	crds := factory.Apiextensions().V1().CustomResourceDefinitions()
	v2, v3 := crdopenapi.NewController(crds), crdopenapiv3.NewController(crds)
	factory.Start(ctx.Done())
	go v2.Run(static, service2, ctx.Done())
	go v3.Run(service3, ctx.Done())
	return documentPaths(existing.Items), nil
}

// documentPaths returns the paths of the versions that are served.
func documentPaths(crds []crdv1.CustomResourceDefinition) []string {
	var out []string
	for _, crd := range crds {
		for _, version := range crd.Spec.Versions {
			if version.Served && crdhelpers.IsCRDConditionTrue(&crd, crdv1.Established) {
				out = append(out, `"apis/`+crd.Spec.Group+"/"+version.Name+`"`)
			}
		}
	}
	return out
}

// aggregationPatience bounds the wait for the aggregator to ask the servers again.
const aggregationPatience = 10 * time.Second

// waitAggregated returns when the aggregator lists the awaited documents.
func (o *openAPI) waitAggregated(ctx context.Context, awaited []string) {
	_ = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, aggregationPatience, true, func(context.Context) (bool, error) {
		list := o.ask("/openapi/v3", "application/json")
		isMissing := func(path string) bool { return !strings.Contains(list, path) }
		return !slices.ContainsFunc(awaited, isMissing), nil
	})
}

// ask returns the aggregator's answer, without authentication and wrap.
func (o *openAPI) ask(path, format string) string {
	answer := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodGet, path, nil)
	req.Header.Set("Accept", format)
	o.aggregated.UnprotectedHandler().ServeHTTP(answer, req)
	return answer.Body.String()
}
