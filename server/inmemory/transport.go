// Package inmemory carries requests from clients inside the process to the API server's
// handler without TCP, TLS, HTTP framing or a socket.
//
// A client still builds a request and decodes a response, and the request runs through the
// API server's whole handler chain: authorization, admission, priority and fairness, audit.
// It skips only what exists because client and server are usually two processes. There is no
// credential: the code that makes the transport asserts the client's identity. The identity
// is in the request's context, where nothing from the network can put it.
//
// Given up: an http.Server on a net.Pipe. It works, but HTTP/2 then frames, copies and
// flow-controls every watch event twice.
package inmemory

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
)

// ErrNotServing is returned for requests before the API server has a handler. It wraps the
// error that a network client would get, so that client-go retries as it would then.
var ErrNotServing = fmt.Errorf("the API server is not serving yet: %w", syscall.ECONNREFUSED)

// host makes URLs well-formed. It is never dialed.
const host = "https://kubernetes.default.svc"

// patientPath is the path that the admission of mutating policies requests while the API
// server is being built. If that request failed, admission would ask again only five seconds
// later, and refuse requests until then. So the request waits for the handler, and is
// answered before all others.
const patientPath = "/openapi/v3"

// firstPatience bounds how long all other requests wait for that one.
const firstPatience = 3 * time.Second

// Server is the process's API server as clients inside the process see it. The zero value
// refuses requests with ErrNotServing until Handle is called.
type Server struct {
	handler atomic.Pointer[http.Handler]

	mu      sync.Mutex
	first   *http.Handler  // answers the requests that have waited for it
	opened  chan struct{}  // closed when first is set; nil until a request waits
	patient sync.WaitGroup // the requests that have waited and are not answered yet
}

// Handle makes h answer all requests from now on, those that have waited for it first.
func (s *Server) Handle(h http.Handler) {
	s.mu.Lock()
	s.first = &h
	if s.opened != nil {
		close(s.opened)
	}
	s.mu.Unlock()
	answered := make(chan struct{})
	go func() {
		s.patient.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-time.After(firstPatience):
	}
	s.handler.Store(&h)
}

// await returns the handler, nil when ctx is done before there is one, and a function to
// call when the handler has answered.
func (s *Server) await(ctx context.Context) (*http.Handler, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		return s.first, func() {}
	}
	if s.opened == nil {
		s.opened = make(chan struct{})
	}
	s.patient.Add(1)
	opened := s.opened
	s.mu.Unlock()
	select {
	case <-opened:
	case <-ctx.Done():
	}
	s.mu.Lock()
	return s.first, s.patient.Done
}

// Config returns a configuration of clients that act as u. They speak protobuf where the API
// has it, and have no rate limit of their own: inside one process the server's priority and
// fairness is the limit.
func (s *Server) Config(u user.Info) *rest.Config {
	return &rest.Config{
		Host:          host,
		Transport:     roundTripper{server: s, user: u},
		QPS:           -1,
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
	}
}

// WrappedConfig is Config for callers that add TLS settings to it, as the API server does for
// webhooks at the Service kubernetes, which have a bundle of CAs. client-go refuses TLS
// settings beside a ready-made transport; here it accepts them, and they have no effect.
func (s *Server) WrappedConfig(u user.Info) *rest.Config {
	config := s.Config(u)
	transport := config.Transport
	config.Transport = nil
	config.WrapTransport = func(http.RoundTripper) http.RoundTripper { return transport }
	return config
}

type identityKey struct{}

// Authenticator authenticates requests that came through a Server, and leaves all others to
// next.
func Authenticator(next authenticator.Request) authenticator.Request {
	return authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
		if u, ok := Identity(req.Context()); ok {
			return &authenticator.Response{User: u}, true, nil
		}
		return next.AuthenticateRequest(req)
	})
}

type roundTripper struct {
	server *Server
	user   user.Info
}

// RoundTrip runs the handler in a goroutine and returns as soon as the handler has sent
// headers, as a network transport would. The handler's context is done when the request's is,
// or when the response body is closed.
func (t roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	handler, answered := t.server.handler.Load(), func() {}
	if handler == nil && req.URL.Path == patientPath {
		handler, answered = t.server.await(req.Context())
	}
	if req.Context().Err() != nil {
		answered()
		return nil, refuse(req, context.Cause(req.Context()))
	}
	if handler == nil {
		answered()
		return nil, refuse(req, ErrNotServing)
	}
	ctx, cancel := handlerContext(req.Context(), t.user)
	w := newResponseWriter(ctx, cancel)
	go func() {
		defer answered()
		serve(*handler, w, serverRequest(ctx, req))
	}()
	select {
	case <-w.started:
		return w.response(req), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// refuse closes the request's body, as a RoundTripper must on errors too, and returns reason.
func refuse(req *http.Request, reason error) error {
	if req.Body != nil {
		req.Body.Close()
	}
	return reason
}

// handlerContext returns a context that acts as u and is done when the client's context is,
// but has none of the client's values: a handler that calls the API with its own context
// would pass on its request's audit event and logger, on which upstream's handler chain
// panics.
func handlerContext(client context.Context, u user.Info) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.WithValue(context.Background(), identityKey{}, u))
	detach := context.AfterFunc(client, func() { cancel(context.Cause(client)) })
	return ctx, func() { detach(); cancel(nil) }
}

// serverRequest returns req as an HTTP/2 server would have parsed it.
func serverRequest(ctx context.Context, req *http.Request) *http.Request {
	r := req.Clone(ctx)
	r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/2.0", 2, 0
	r.RequestURI = r.URL.RequestURI()
	r.RemoteAddr = "127.0.0.1:0"
	r.Host = r.URL.Host
	if r.Body == nil {
		r.Body = http.NoBody
	}
	return r
}

func serve(handler http.Handler, w *responseWriter, r *http.Request) {
	defer r.Body.Close()
	defer func() {
		// net/http recovers a handler's panic and cuts the connection; the
		// API server relies on it (http.ErrAbortHandler).
		p := recover()
		if p != nil && p != http.ErrAbortHandler {
			slog.Error("request handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
		}
		w.finish(p != nil)
	}()
	handler.ServeHTTP(w, r)
}

// Identity returns the user that a request which came through a Server acts as. ok is false
// for requests from outside the process.
func Identity(ctx context.Context) (u user.Info, ok bool) {
	u, ok = ctx.Value(identityKey{}).(user.Info)
	return u, ok
}
