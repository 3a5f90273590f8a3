package testnode

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// ServeRegistry runs a registry on loopback with one image, <repository>:1. protect wraps
// its handler, to ask for credentials for instance.
func ServeRegistry(t *testing.T, config *tls.Config, repository string, protect func(http.Handler) http.Handler) string {
	t.Helper()
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	Push(t, content, repository, Busybox(t))

	handler := http.Handler(content)
	if protect != nil {
		handler = protect(handler)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	if config == nil {
		server.Start()
	} else {
		server.TLS = config
		server.StartTLS()
	}
	return server.Listener.Addr().String()
}

// Push puts image into the registry as <repository>:1, by the requests that any
// client makes.
func Push(t *testing.T, to http.Handler, repository string, image v1.Image) {
	t.Helper()
	send := func(method, path string, mediaType types.MediaType, body []byte) {
		t.Helper()
		r := httptest.NewRequest(method, "/v2/"+repository+path, bytes.NewReader(body))
		r.Header.Set("Content-Type", string(mediaType))
		w := httptest.NewRecorder()
		to.ServeHTTP(w, r)
		if w.Code != http.StatusCreated {
			t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blobs := [][]byte{config}
	for _, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, content)
	}
	for _, blob := range blobs {
		send(http.MethodPost, fmt.Sprintf("/blobs/uploads/?digest=sha256:%x", sha256.Sum256(blob)), "application/octet-stream", blob)
	}
	send(http.MethodPut, "/manifests/1", types.DockerManifestSchema2, manifest)
}

// BasicAuth lets one user in.
func BasicAuth(user, password string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				http.Error(w, "who are you", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}
