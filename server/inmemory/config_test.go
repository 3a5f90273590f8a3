package inmemory

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
)

// whoAmI answers with the user whom Authenticator recognises, else with
// "nobody", which is what next says here.
func whoAmI(w http.ResponseWriter, r *http.Request) {
	nobody := authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) { return nil, false, nil })
	response, ok, err := Authenticator(nobody).AuthenticateRequest(r)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case !ok:
		io.WriteString(w, "nobody")
	default:
		fmt.Fprintf(w, "%s %v", response.User.GetName(), response.User.GetGroups())
	}
}

// forged is what a client could try to be someone else, or to be someone at all.
var forged = map[string]string{
	"Authorization":            "Bearer system:masters",
	"X-Remote-User":            "root",
	"X-Remote-Group":           "system:masters",
	"Impersonate-User":         "root",
	"X-Identity":               "root",
	"Sec-Websocket-Protocol":   "base64url.bearer.authorization.k8s.io.cm9vdA",
	"X-Forwarded-Client-Cert":  "root",
	"X-Brink-In-Memory-Client": "root",
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	server := &Server{}
	server.Handle(http.HandlerFunc(whoAmI))
	network := httptest.NewServer(http.HandlerFunc(whoAmI))
	t.Cleanup(network.Close)
	bob := &user.DefaultInfo{Name: "system:node:bob", Groups: []string{"system:nodes"}}
	tests := []struct {
		name   string
		client *http.Client
		url    string
		want   string
	}{
		{"in memory", client(t, server, alice), host, "alice [system:authenticated]"},
		{"in memory, someone else", client(t, server, bob), host, "system:node:bob [system:nodes]"},
		{"by network", network.Client(), network.URL, "nobody"},
	}
	for _, tt := range tests {
		for _, forge := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/forged=%t", tt.name, forge), func(t *testing.T) {
				t.Parallel()
				// A context that has an identity of another request.
				ctx := context.WithValue(t.Context(), identityKey{}, user.Info(&user.DefaultInfo{Name: "root"}))
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, tt.url, nil)
				if forge {
					for name, value := range forged {
						req.Header.Set(name, value)
					}
				}
				resp, err := tt.client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got, err := io.ReadAll(resp.Body); string(got) != tt.want {
					t.Errorf("the server sees %q (%v), want %q", got, err, tt.want)
				}
			})
		}
	}
}

// TestNestedRequestIsItsOwn: a handler that calls the API with its request's
// context. Upstream's chain keeps a request's logger and audit event in the
// context and panics on finding those of another.
func TestNestedRequestIsItsOwn(t *testing.T) {
	t.Parallel()
	type perRequest struct{}
	server := &Server{}
	inner := client(t, server, &user.DefaultInfo{Name: "inner"})
	server.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(perRequest{}) != nil {
			t.Error("the inner request carries values of the outer one")
		}
		if r.URL.Path == "/inner" {
			whoAmI(w, r)
			return
		}
		ctx := context.WithValue(r.Context(), perRequest{}, "outer")
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, host+"/inner", nil)
		resp, err := inner.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		io.Copy(w, resp.Body)
	}))
	got, err := io.ReadAll(mustGet(t, client(t, server, alice)).Body)
	if string(got) != "inner []" || err != nil {
		t.Errorf("got %q, %v, want the inner client's identity", got, err)
	}
}

// TestBundleOfCAs: what is added to a client for TLS changes nothing and stops
// nothing.
func TestBundleOfCAs(t *testing.T) {
	t.Parallel()
	s := &Server{}
	s.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, _ := Identity(r.Context())
		_, _ = io.WriteString(w, u.GetName()+" "+r.URL.Path)
	}))
	config := s.WrappedConfig(&user.DefaultInfo{Name: "me"})
	config.TLSClientConfig.CAData = []byte(caPEM(t))
	config.TLSClientConfig.ServerName = "kubernetes.default.svc"
	config.NextProtos = []string{"http/1.1"}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get("https://kubernetes.default.svc:443/hook")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); string(text) != "me /hook" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func caPEM(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
