package join

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"brink/internal/layout"
	"brink/internal/wire/jointoken"
)

// answers is a server that a machine joins: what it says of a token, and to the
// certificate request.
type answers struct {
	status     int
	state      string
	csr        int
	csrRequest int // how many there were
}

func (a *answers) serve(t *testing.T) (*httptest.Server, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{serverName}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	bundle := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	mux := http.NewServeMux()
	mux.HandleFunc(jointoken.CAPath, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bundle) })
	mux.HandleFunc(jointoken.StatusPath, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(a.status)
		_, _ = w.Write([]byte(a.state))
	})
	mux.HandleFunc("/apis/", func(w http.ResponseWriter, _ *http.Request) {
		a.csrRequest++
		http.Error(w, "no", a.csr)
	})
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server, bundle
}

// TestAServerThatStarts refuses what it takes a moment later: only a token that it
// says is none is refused for good.
func TestAServerThatStarts(t *testing.T) {
	t.Parallel()
	const valid = `{"state":"valid"}`
	for name, tt := range map[string]struct {
		answers
		isPermanent bool
		want        string
		asked       int
	}{
		"it knows no tokens yet":          {answers{503, "the server is starting\n", 401, 0}, false, "not ready", 0},
		"it authenticates nobody yet":     {answers{200, valid, 401, 0}, false, "asking for a certificate", 1},
		"it allows nothing yet":           {answers{200, valid, 403, 0}, false, "asking for a certificate", 1},
		"it is too busy":                  {answers{200, valid, 503, 0}, false, "asking for a certificate", 1},
		"it says nothing of the token":    {answers{404, "404 page not found", 401, 0}, true, "does not know the token", 1},
		"it says nothing and lets nobody": {answers{404, "404 page not found", 403, 0}, true, "may not be used to join", 1},
		"it does not know it":             {answers{401, `{"state":"unknown"}`, 401, 0}, true, "does not know the token", 0},
		"it has ended":                    {answers{410, `{"state":"expired"}`, 401, 0}, true, "has expired", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, bundle := tt.serve(t)
			hash, err := jointoken.HashCA(bundle)
			if err != nil {
				t.Fatal(err)
			}
			token := jointoken.New(hash)
			j, err := New(Config{Server: server.Listener.Addr().String(), Token: &token, NodeName: "till-3", Layout: layout.New(t.TempDir())})
			if err != nil {
				t.Fatal(err)
			}
			err = j.join(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, &permanent{}) != tt.isPermanent || tt.csrRequest != tt.asked {
				t.Errorf("after %d requests: %v, want %q, for good: %t", tt.csrRequest, err, tt.want, tt.isPermanent)
			}
		})
	}
}
