package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"brink/e2e/image"
)

// bundledManifests name the images of the test's registry in several kinds.
const bundledManifests = `
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: Deployment
  metadata: {name: shop}
  spec:
    selector: {matchLabels: {app: shop}}
    template:
      metadata: {labels: {app: shop}}
      spec:
        terminationGracePeriodSeconds: 1
        initContainers:
        - {name: init, image: "bundle.test/init:1", imagePullPolicy: Never, command: ["true"]}
        containers:
        - {name: main, image: "bundle.test/app:1", imagePullPolicy: Never, command: [sleep, "100000"]}
`

// thirds serves a registry and ends each connection to a large blob after a third of it.
// The request that follows is refused, as when a link is down.
type thirds struct {
	http.Handler
	broken bool

	mu   sync.Mutex
	down bool
	sent int64
	size int64
}

func (h *thirds) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !h.broken || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		h.Handler.ServeHTTP(w, r)
		return
	}
	whole, plain := httptest.NewRecorder(), r.Clone(r.Context())
	plain.Header.Del("Range")
	h.Handler.ServeHTTP(whole, plain)
	body := whole.Body.Bytes()
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case len(body) < 100<<10:
		h.Handler.ServeHTTP(w, r)
	case h.down:
		h.down = false
		http.Error(w, "the link is down", http.StatusServiceUnavailable)
	default:
		h.thirdLocked(w, r.Header.Get("Range"), body)
	}
}

// thirdLocked sends up to a third of a blob from where the client wants it.
func (h *thirds) thirdLocked(w http.ResponseWriter, asked string, body []byte) {
	from, size, status := int64(0), int64(len(body)), http.StatusOK
	if start, ok := strings.CutPrefix(asked, "bytes="); ok {
		from, _ = strconv.ParseInt(strings.TrimSuffix(start, "-"), 10, 64)
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, size-1, size))
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size-from, 10))
	w.WriteHeader(status)
	to := min(size, from+size/3+1)
	n, _ := w.Write(body[from:to])
	_ = http.NewResponseController(w).Flush()
	h.sent += int64(n)
	h.size = size
	if h.down = to < size; h.down {
		panic(http.ErrAbortHandler)
	}
}

// push puts an image into a registry as repository:1, by the requests of any client.
func push(to http.Handler, repository string, img v1.Image) error {
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	blobs := [][]byte{config}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		r, err := layer.Compressed()
		if err != nil {
			return err
		}
		blob, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		blobs = append(blobs, blob)
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	base := "/v2/" + repository
	for _, blob := range blobs {
		send(to, http.MethodPost, fmt.Sprintf("%s/blobs/uploads/?digest=sha256:%x", base, sha256.Sum256(blob)), "application/octet-stream", blob)
	}
	if code := send(to, http.MethodPut, base+"/manifests/1", "application/vnd.docker.distribution.manifest.v2+json", manifest); code != http.StatusCreated {
		return fmt.Errorf("pushing %s: %d", repository, code)
	}
	return nil
}

func send(to http.Handler, method, path, mediaType string, body []byte) int {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", mediaType)
	w := httptest.NewRecorder()
	to.ServeHTTP(w, r)
	return w.Code
}

// serveImages runs a registry on the switch with the images of an archive, and has the
// node use it for bundle.test.
func (n *node) serveImages(t *testing.T, images ...image.Image) *thirds {
	t.Helper()
	h := &thirds{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	addr := serveOnLAN(t, nil, h)
	archive := filepath.Join(n.Dir, "registry.tar")
	if err := image.Write(archive, images...); err != nil {
		t.Fatal(err)
	}
	for _, i := range images {
		tag, err := name.NewTag(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		img, err := tarball.ImageFromPath(archive, &tag)
		if err == nil {
			err = push(h.Handler, tag.RepositoryStr(), img)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	settings := fmt.Sprintf("mirrors:\n  bundle.test: {endpoint: [\"http://%s\"]}\n", addr)
	err := errors.Join(os.MkdirAll(n.Inside("/etc/brink"), 0o755), os.WriteFile(n.Inside("/etc/brink/registries.yaml"), []byte(settings), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func bundled(t *testing.T, app string, more ...image.File) image.Image {
	t.Helper()
	box, err := image.BusyboxFiles()
	if err != nil {
		t.Fatal(err)
	}
	return image.Image{Name: "bundle.test/" + app + ":1", Layers: [][]image.File{box, append(versionFile(app), more...)}}
}

// must runs brink on the machine.
func (n *node) must(t *testing.T, args ...string) string {
	t.Helper()
	r, err := n.Brink(args...)
	if err != nil || r.Code != 0 {
		t.Fatalf("brink %v: %v %v", args, err, r)
	}
	return r.Stdout
}

// TestBundleForANodeWithoutRegistry: what manifests name comes to a running node in one
// file, and what is new in a second one. The node has no way to the registry then.
func TestBundleForANodeWithoutRegistry(t *testing.T) {
	t.Parallel()
	n := prepareNode(t)
	n.serveImages(t, bundled(t, "app"), bundled(t, "init"), bundled(t, "later"))
	first, second := filepath.Join(n.Dir, "first.tar"), filepath.Join(n.Dir, "second.tar")
	manifests := filepath.Join(n.Dir, "shop.yaml")
	if err := os.WriteFile(manifests, []byte(bundledManifests), 0o600); err != nil {
		t.Fatal(err)
	}
	out := n.must(t, "images", "bundle", "-o", first, "-f", manifests)
	out += n.must(t, "images", "bundle", "-o", second, "--from", first, "-f", manifests, "bundle.test/later:1")
	if err := errors.Join(contains(out, "bundle.test/app:1 sha256:"), contains(out, "bundle.test/later:1 sha256:")); err != nil {
		t.Error(err)
	}
	if a, b := sizeOf(t, first), sizeOf(t, second); b > a/10 {
		t.Errorf("the first bundle has %d bytes, the second %d", a, b)
	}
	if err := errors.Join(os.Remove(n.Inside("/etc/brink/registries.yaml")), n.Start()); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	if err := errors.Join(n.bring(first), n.bring(second)); err != nil {
		t.Fatal(err)
	}
	ns.eventually("the images of both bundles", func() error {
		list := n.must(t, append([]string{"images", "list", "-o", "json"}, n.Flags("data-dir")...)...)
		return errors.Join(contains(list, "bundle.test/app:1"), contains(list, "bundle.test/later:1"))
	})
	ns.apply(bundledManifests + "\n---\n" + runs("later", "bundle.test/later:1", "Never"))
	ns.readyPod("later")
	ns.readyPods("app=shop", 1)
	broken := filepath.Join(n.Dir, "broken.tar")
	whole, err := os.ReadFile(first)
	if err := errors.Join(err, os.WriteFile(broken, whole[:len(whole)/2], 0o600), n.bring(broken)); err != nil {
		t.Fatal(err)
	}
	ns.eventually("a warning in the status", func() error {
		status, err := n.Status()
		return errors.Join(err, contains(status.Stdout, "warning: image archive "+filepath.Join(n.Layout().Images(), "broken.tar")))
	})
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// TestPullThatBreaksGoesOn: of an image whose download breaks after each third, every byte
// comes once, also when brink is killed meanwhile.
func TestPullThatBreaksGoesOn(t *testing.T) {
	t.Parallel()
	n := prepareNode(t)
	random := make([]byte, 1<<20) // no other image has it, and it cannot be compressed
	_, _ = rand.Read(random)
	h := n.serveImages(t, bundled(t, "app", image.File{Name: "random", Mode: 0o644, Content: random}))
	h.broken = true
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	ns.apply(runs("app", "bundle.test/app:1", "IfNotPresent"))
	if err := n.AwaitText("err", "a pull broke off, the next one goes on where it stopped"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(n.Kill(), n.Start()); err != nil {
		t.Fatal(err)
	}
	ns.readyPod("app")
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sent != h.size || h.size == 0 {
		t.Errorf("%d bytes were sent of %d", h.sent, h.size)
	}
}

// TestNodeWithoutRouteAndDNS: a machine that reaches nobody becomes a node.
func TestNodeWithoutRouteAndDNS(t *testing.T) {
	t.Parallel()
	n := prepareNode(t)
	if err := n.Holder.Run("sh", "-ec", "ip route del default; : > /etc/resolv.conf"); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	ns.apply(runs("app", busybox1, "IfNotPresent"))
	ns.readyPod("app")
}
