package controlplane

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	crdhelpers "k8s.io/apiextensions-apiserver/pkg/apihelpers"
	crdv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	crdinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	crdopenapi "k8s.io/apiextensions-apiserver/pkg/controller/openapi"
	crdopenapiv3 "k8s.io/apiextensions-apiserver/pkg/controller/openapiv3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	admissionlisters "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"brink/server/inmemory"
)

// openAPI serves the descriptions of all APIs (kubectl explain, apply) and makes
// them when somebody first asks. Upstream makes them at every start: a second
// or two of a PC's processor, many of a board's, and a third of the heap, on
// machines that most of the time nobody looks at.
//
// The aggregator asks the servers below it once a second; until the documents
// are made they answer with an empty list.
type openAPI struct {
	v2 *common.Config
	v3 *common.OpenAPIV3Config
	// mutating lists policies whose evaluation needs the documents.
	mutating admissionlisters.MutatingAdmissionPolicyLister

	loopback   *rest.Config
	aggregated *genericapiserver.GenericAPIServer
	kube       *openAPIPlace
	extensions *openAPIPlace

	awaited []string // paths in the list of documents, quoted

	once sync.Once
	made atomic.Bool
	stop <-chan struct{}
}

// openAPIPlace is where one server answers for its documents.
type openAPIPlace struct {
	server  *genericapiserver.GenericAPIServer
	current atomic.Pointer[mux.PathRecorderMux]
}

// newOpenAPIPlace puts a server's answers in place. It must come before
// PrepareRun, which makes the aggregator ask for the first time.
func newOpenAPIPlace(server *genericapiserver.GenericAPIServer) *openAPIPlace {
	place := &openAPIPlace{server: server}
	paths := server.Handler.NonGoRestfulMux
	paths.Handle("/openapi/v2", place)
	paths.Handle("/openapi/v3", place)
	paths.HandlePrefix("/openapi/v3/", place)
	return place
}

func (p *openAPIPlace) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if made := p.current.Load(); made != nil {
		made.ServeHTTP(w, r)
		return
	}
	if r.URL.Path != "/openapi/v3" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(`{"paths":{}}`))
}

// make builds the server's documents and serves them from now on.
func (p *openAPIPlace) make(v2 *common.Config, v3 *common.OpenAPIV3Config) (*handler.OpenAPIService, *spec.Swagger, *handler3.OpenAPIService) {
	made := mux.NewPathRecorderMux("openapi")
	container := p.server.Handler.GoRestfulContainer
	service2, static := routes.OpenAPI{Config: v2}.InstallV2(container, made)
	service3 := routes.OpenAPI{V3Config: v3}.InstallV3(container, made)
	p.current.Store(made)
	return service2, static, service3
}

// wrap makes the documents before a request for them is answered.
func (o *openAPI) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/openapi/") && !o.made.Load() && o.wanted(r) {
			o.ensure()
		}
		next.ServeHTTP(w, r)
	})
}

// wanted is false for the one client that asks every five seconds without
// needing an answer: the admission of mutating policies, while there are none.
func (o *openAPI) wanted(r *http.Request) bool {
	who, inside := inmemory.Identity(r.Context())
	if !inside || who.GetName() != user.APIServerUser || r.URL.Path != "/openapi/v3" {
		return true
	}
	policies, err := o.mutating.List(labels.Everything())
	return err != nil || len(policies) > 0
}

// ensure makes the documents, once, and returns when the aggregator has them.
func (o *openAPI) ensure() {
	o.once.Do(func() {
		begun := time.Now()
		o.kube.make(o.v2, o.v3)
		o.awaited = []string{`"api/v1"`}
		if err := o.followCRDs(o.extensions.make(o.v2, o.v3)); err != nil {
			slog.Error("custom resources are missing from OpenAPI", "component", "apiserver", "error", err)
		}
		o.waitAggregated()
		o.made.Store(true)
		slog.Debug("OpenAPI documents made", "component", "apiserver", "took", time.Since(begun))
	})
}

// followCRDs adds the documents of custom resources and keeps them up to date,
// as upstream's post-start hook would.
func (o *openAPI) followCRDs(service2 *handler.OpenAPIService, static *spec.Swagger, service3 *handler3.OpenAPIService) error {
	client, err := crdclient.NewForConfig(o.loopback)
	if err != nil {
		return err
	}
	factory := crdinformers.NewSharedInformerFactory(client, resync)
	crds := factory.Apiextensions().V1().CustomResourceDefinitions()
	v2, v3 := crdopenapi.NewController(crds), crdopenapiv3.NewController(crds)
	existing, err := client.ApiextensionsV1().CustomResourceDefinitions().List(wait.ContextForChannel(o.stop), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, crd := range existing.Items {
		for _, version := range crd.Spec.Versions {
			if version.Served && crdhelpers.IsCRDConditionTrue(&crd, crdv1.Established) {
				o.awaited = append(o.awaited, `"apis/`+crd.Spec.Group+"/"+version.Name+`"`)
			}
		}
	}
	factory.Start(o.stop)
	go v2.Run(static, service2, o.stop)
	go v3.Run(service3, o.stop)
	return nil
}

// aggregationPatience bounds the wait for the aggregator's next look.
const aggregationPatience = 10 * time.Second

// waitAggregated returns when the aggregator lists the core API and the custom
// resources that there are.
func (o *openAPI) waitAggregated() {
	deadline := time.Now().Add(aggregationPatience)
	for time.Now().Before(deadline) {
		answer := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/openapi/v3", nil)
		o.aggregated.UnprotectedHandler().ServeHTTP(answer, req)
		isMissing := func(path string) bool { return !strings.Contains(answer.Body.String(), path) }
		if !slices.ContainsFunc(o.awaited, isMissing) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
