package controlplane

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	agent "brink/agent/tunnel"
	"brink/internal/wire/tunnelwire"
	"brink/server/tunnel"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/apiserver/pkg/server/filters"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-base/tracing"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	kubeapiserver "k8s.io/kubernetes/pkg/controlplane"
)

// chained serves paths in upstream's handler chain, over TLS and both versions of
// HTTP. Everyone is node a, and may get what is below /brink/ unless forbidden.
func chained(t *testing.T, p paths, forbidden *atomic.Bool) *httptest.Server {
	t.Helper()
	config := genericapiserver.NewConfig(legacyscheme.Codecs)
	config.Authentication.Authenticator = authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		if r.Header.Get("Anonymous") != "" {
			return nil, false, nil
		}
		return &authenticator.Response{User: identity("system:node:a", user.NodesGroup)}, true, nil
	})
	config.Authorization.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if forbidden.Load() || a.GetUser().GetName() != "system:node:a" || a.GetVerb() != "get" || !strings.HasPrefix(a.GetPath(), "/brink/") {
			return authorizer.DecisionDeny, "", nil
		}
		return authorizer.DecisionAllow, "", nil
	})
	config.RequestInfoResolver = genericapiserver.NewRequestInfoResolver(config)
	config.LongRunningFunc = p.longRunning(filters.BasicLongRunningRequestCheck(sets.NewString("watch"), sets.NewString("exec")))
	config.FeatureGate = utilfeature.DefaultFeatureGate
	config.TracerProvider = tracing.NewNoopTracerProvider()
	config.RequestTimeout = 50 * time.Millisecond
	inner := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "the API server") })
	server := httptest.NewUnstartedServer(p.outside(genericapiserver.DefaultBuildHandlerChain(p.inside(inner), config)))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func saying(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) })
}

func TestPaths(t *testing.T) {
	t.Parallel()
	var forbidden atomic.Bool
	server := chained(t, paths{
		authenticated: map[string]http.Handler{"/brink/v1/inside": saying("inside")},
		public:        map[string]http.Handler{"/outside": saying("outside")},
	}, &forbidden)
	get := func(path string, anonymous bool) (int, string) {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, nil)
		if anonymous {
			req.Header.Set("Anonymous", "yes")
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	for _, tt := range []struct {
		path      string
		anonymous bool
		status    int
		text      string // when the status is 200
	}{
		{"/brink/v1/inside", false, http.StatusOK, "inside"},
		{"/brink/v1/inside", true, http.StatusUnauthorized, ""},
		{"/brink/v1/inside/", false, http.StatusOK, "the API server"},
		{"/brink/v1/other", false, http.StatusOK, "the API server"},
		{"/outside", true, http.StatusOK, "outside"},
		{"/outside/", true, http.StatusUnauthorized, ""},
		{"/outside/", false, http.StatusForbidden, ""},
	} {
		status, text := get(tt.path, tt.anonymous)
		if status != tt.status || (status == http.StatusOK && text != tt.text) {
			t.Errorf("%s, anonymous %t: got %d %q, want %d %q", tt.path, tt.anonymous, status, text, tt.status, tt.text)
		}
	}
	forbidden.Store(true)
	if status, _ := get("/brink/v1/inside", false); status != http.StatusForbidden {
		t.Errorf("someone without the right gets %d", status)
	}
}

// TestTunnelThroughChain: the handler chain wraps responses many times and ends
// requests that last; a tunnel needs the connection, for long.
func TestTunnelThroughChain(t *testing.T) {
	t.Parallel()
	tunnels := tunnel.New(tunnel.Config{})
	t.Cleanup(tunnels.Close)
	var forbidden atomic.Bool
	server := chained(t, paths{authenticated: map[string]http.Handler{tunnelwire.Path: tunnels}}, &forbidden)
	kubelet, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer kubelet.Close()
	go func() {
		for {
			conn, err := kubelet.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "kubelet")
			conn.Close()
		}
	}()
	links := agent.New(agent.Config{
		TLS: func() (*tls.Config, error) {
			config := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
			config.ServerName = "example.com"
			return config, nil
		},
		Kubelet: netip.MustParseAddrPort(kubelet.Addr().String()),
	})
	links.SetServers([]string{server.Listener.Addr().String()})
	go links.Run(t.Context(), func() {})
	deadline := time.Now().Add(time.Minute)
	for !tunnels.Has("a") {
		if time.Now().After(deadline) {
			t.Fatalf("there is no tunnel: %+v", links.Status())
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond) // longer than other requests may last
	conn, err := tunnels.Dial(t.Context(), "a", "tcp", tunnelwire.Kubelet)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "kubelet" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

type namedDialer struct{ nodes corelisters.NodeLister }

func (*namedDialer) DialKubelet(context.Context, string, string) (net.Conn, error) {
	return nil, net.UnknownNetworkError("kubelet")
}

func (*namedDialer) DialPod(context.Context, string, string) (net.Conn, error) {
	return nil, net.UnknownNetworkError("pod")
}

func (d *namedDialer) Use(nodes corelisters.NodeLister, _ corelisters.PodLister) { d.nodes = nodes }

// TestDialer is used for both kinds of connections, unless the user has a way of
// their own.
func TestDialer(t *testing.T) {
	t.Parallel()
	config := func() *kubeapiserver.Config {
		kube := &kubeapiserver.Config{}
		kube.ControlPlane.Generic = &genericapiserver.Config{}
		kube.ControlPlane.ProxyTransport = &http.Transport{}
		return kube
	}
	generic := &genericConfig{informers: informers.NewSharedInformerFactory(nil, 0)}
	dialer := &namedDialer{}
	server := &apiServer{dialer: dialer}
	kube := config()
	transport := kube.ControlPlane.ProxyTransport
	server.dial(kube, generic)
	dial, err := kube.Extra.KubeletClientConfig.Lookup(egressselector.Cluster.AsNetworkContext())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(t.Context(), "tcp", "a:10250"); err != net.UnknownNetworkError("kubelet") {
		t.Errorf("kubelets are dialed elsewhere: %v", err)
	}
	if _, err := transport.DialContext(t.Context(), "tcp", "10.42.0.1:80"); err != net.UnknownNetworkError("pod") {
		t.Errorf("pods are dialed elsewhere: %v", err)
	}
	if dialer.nodes == nil {
		t.Error("the dialer was not told of the nodes")
	}
	kube = config()
	kube.ControlPlane.Generic.EgressSelector = egressselector.NewEgressSelectorWithMap(nil)
	server.dial(kube, generic)
	if kube.Extra.KubeletClientConfig.Lookup != nil || kube.ControlPlane.ProxyTransport.DialContext != nil {
		t.Error("the user's egress selector is overruled")
	}
}
