package controlplane

import (
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/request"
)

// paths are the handlers that brink adds to the API server, by their exact paths.
type paths struct {
	authenticated map[string]http.Handler
	public        map[string]http.Handler
}

// inside answers requests that have come through the whole handler chain.
func (p paths) inside(next http.Handler) http.Handler { return dispatch(p.authenticated, next) }

// outside answers requests before the handler chain: nobody has authenticated them.
func (p paths) outside(next http.Handler) http.Handler { return dispatch(p.public, next) }

func dispatch(handlers map[string]http.Handler, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if handler, ok := handlers[r.URL.Path]; ok {
			handler.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// longRunning exempts authenticated paths from upstream's time limit and from its limit of
// requests in flight.
func (p paths) longRunning(next request.LongRunningRequestCheck) request.LongRunningRequestCheck {
	return func(r *http.Request, info *request.RequestInfo) bool {
		_, ok := p.authenticated[r.URL.Path]
		return ok || next(r, info)
	}
}
