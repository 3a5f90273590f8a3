package controlplane

import (
	"encoding/json"
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/cache"

	"brink/server/inmemory"
)

// The admission of mutating policies asks for the list of documents every five seconds, and
// refuses with 503 what is not in its last list. It is the only client that asks without
// needing the documents, as it does most of the time. So while there are no documents it gets
// a list of all groups, and none are made. When it evaluates a policy it asks for that of
// the policy's group, which has the documents made. They are made as soon as there is a
// policy, to keep the first evaluation short. While there are documents it gets the real
// list, in which the names change with the documents.

// isPoll reports whether r is that request of admission.
func isPoll(r *http.Request) bool {
	who, inside := inmemory.Identity(r.Context())
	return inside && who.GetName() == user.APIServerUser && r.URL.Path == "/openapi/v3"
}

// followPolicies has the documents made when there is a policy. It must be called before the
// informers start.
func (o *openAPI) followPolicies() error {
	_, err := o.mutating.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { go o.makeEarly() }})
	return err
}

func (o *openAPI) makeEarly() {
	if err := o.documents.want(); err != nil {
		o.log.Debug("making the OpenAPI documents for a policy", "error", err)
	}
}

// answerPoll answers the poll, unless there are documents to answer it. Those are kept as
// long as there are policies.
func (o *openAPI) answerPoll(w http.ResponseWriter) (answered bool) {
	policies, err := o.mutating.Lister().List(labels.Everything())
	needed := err != nil || len(policies) > 0
	if o.made.Load() {
		return needed && o.documents.want() != nil
	}
	if needed {
		go o.makeEarly()
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(o.list())
	return true
}

// list returns the list of the documents that would be made. The groups of custom resources
// are known a moment after the start: for policies about them the list is right from the
// second request on.
func (o *openAPI) list() []byte {
	paths := map[string]map[string]string{}
	add := func(path string) { paths[path] = map[string]string{"serverRelativeURL": "/openapi/v3/" + path} }
	for _, service := range o.kube.server.Handler.GoRestfulContainer.RegisteredWebServices() {
		if path := strings.Trim(service.RootPath(), "/"); path == "api/v1" || strings.HasPrefix(path, "apis/") && strings.Count(path, "/") == 2 {
			add(path)
		}
	}
	services, _ := o.groups.Lister().List(labels.Everything())
	for _, s := range services {
		if s.Spec.Group != "" {
			add("apis/" + s.Spec.Group + "/" + s.Spec.Version)
		}
	}
	text, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		panic(err) // strings always marshal
	}
	return text
}
