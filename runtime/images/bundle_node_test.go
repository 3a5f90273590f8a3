package images_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"brink/internal/testerror"
	"brink/runtime/images"
	"brink/runtime/testnode"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// shop is a registry with images that share a layer. It counts what of large blobs is
// fetched, and fails after that many when it must.
type shop struct {
	http.Handler
	host    string
	fetched atomic.Int64
	left    atomic.Int64 // blobs until it fails, if above 0
}

func (s *shop) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
		s.fetched.Add(1)
		if s.left.Add(-1) == 0 {
			s.left.Store(1)
			http.Error(w, "no more today", http.StatusForbidden)
			return
		}
	}
	s.Handler.ServeHTTP(w, r)
}

func newShop(t *testing.T) *shop {
	t.Helper()
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	base := testnode.Busybox(t, "shop")
	for _, name := range []string{"one", "two", "three"} {
		image, err := mutate.AppendLayers(base, static.NewLayer(tarOf(t, []byte(name)), types.DockerUncompressedLayer))
		if err != nil {
			t.Fatal(err)
		}
		testnode.Push(t, content, name, image)
	}
	testnode.Push(t, content, "foreign", forArch(t, base, foreignArch))
	s := &shop{Handler: content}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.host = server.Listener.Addr().String()
	return s
}

func (s *shop) bundle(t *testing.T, out string, from []string, names ...string) (images.Bundled, error) {
	t.Helper()
	b := images.Bundle{Out: out, From: from, Report: silent}
	for _, name := range names {
		b.Images = append(b.Images, s.host+"/"+name+":1")
	}
	return b.Write(t.Context())
}

func mustBundle(t *testing.T, s *shop, out string, from []string, names ...string) images.Bundled {
	t.Helper()
	done, err := s.bundle(t, out, from, names...)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// entriesOf returns the names in a bundle, in order.
func entriesOf(t *testing.T, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []string
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h.Name)
	}
}

// TestBundle: a node runs the images of a bundle, and those of a second bundle that has
// only what the first has not.
func TestBundle(t *testing.T) {
	s, dir := newShop(t), t.TempDir()
	first, second := filepath.Join(dir, "first.tar"), filepath.Join(dir, "second.tar")
	done := mustBundle(t, s, first, nil, "two", "one", "one")
	if len(done.Images) != 2 || done.Images[0].Name != s.host+"/one:1" {
		t.Errorf("the bundle has %v", done.Images)
	}
	if info, err := os.Stat(first); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others may read private images: %v, %v", info.Mode(), err)
	}
	if blobs := entriesOf(t, first); len(blobs) != 2+2+2+1+2 { // manifests, configurations, the shared layer, the others
		t.Errorf("the bundle has %q", blobs)
	}
	more := mustBundle(t, s, second, []string{first}, "one", "three")
	if len(more.Images) != 1 || more.Shared < 1<<20 || more.Size > 100<<10 {
		t.Errorf("the second bundle is %+v", more)
	}
	i := newImports(t)
	_, err := i.Import(i.Context(), second, true, silent)
	testerror.OneLine(t, err, "three:1 is not whole")
	for _, path := range []string{first, second} {
		if _, err := i.Import(i.Context(), path, true, silent); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"one", "two", "three"} {
		i.WaitPinned(s.host+"/"+name+":1", true)
	}
	exported := filepath.Join(dir, "exported.tar")
	if _, err := i.Export(i.Context(), exported, []string{s.host + "/one:1", s.host + "/two:1"}, nil, silent); err != nil {
		t.Fatal(err)
	}
	if !sameFile(t, first, exported) {
		t.Error("what a node exports is not what was bundled")
	}
	_, err = i.Export(i.Context(), exported, []string{"away.test/app:1"}, nil, silent)
	testerror.OneLine(t, err, "away.test/app:1: it is not on this node")
}

func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	one, err := os.ReadFile(a)
	two, err2 := os.ReadFile(b)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(one, two)
}

// TestBundleGoesOn: a bundle that was cut short leaves no file, what was fetched is not
// fetched again, and the same images give the same bytes.
func TestBundleGoesOn(t *testing.T) {
	t.Parallel()
	s, dir := newShop(t), t.TempDir()
	out, again := filepath.Join(dir, "out.tar"), filepath.Join(dir, "again.tar")
	mustBundle(t, s, again, nil, "three", "one", "two")
	needed := s.fetched.Swap(0)
	s.left.Store(5)
	_, err := s.bundle(t, out, nil, "one", "two", "three")
	testerror.OneLine(t, err, "run this again to go on")
	if _, err := os.Stat(out); err == nil {
		t.Error("half a bundle has its name")
	}
	failed := s.fetched.Load() - 4
	s.left.Store(0)
	mustBundle(t, s, out, nil, "one", "two", "three")
	if all := s.fetched.Load() - failed; all != needed {
		t.Errorf("%d blobs were fetched in two runs, %d in one", all, needed)
	}
	if !sameFile(t, out, again) {
		t.Error("the same images give another file")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestBundleRefuses(t *testing.T) {
	t.Parallel()
	s, dir := newShop(t), t.TempDir()
	out := filepath.Join(dir, "out.tar")
	_, err := s.bundle(t, out, nil, "one", "foreign", "missing")
	testerror.OneLine(t, err, "2 of 3 images cannot be had")
	for _, want := range []string{"/foreign:1: it is for linux/s390x alone", "/missing:1"} {
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q in it", err, want)
		}
	}
	_, err = s.bundle(t, out, []string{filepath.Join(dir, "away.tar")}, "one")
	testerror.OneLine(t, err, "away.tar")
	other := filepath.Join(dir, "other.tar")
	if err := os.Mkdir(other+".part", 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = s.bundle(t, other, nil, "one")
	testerror.OneLine(t, err, "other.tar.part is in the way")
}

// TestBundlePlatforms: of an image for many platforms a bundle has those that were asked
// for.
func TestBundlePlatforms(t *testing.T) {
	t.Parallel()
	s, dir := newShop(t), t.TempDir()
	var all []v1.Image
	for _, arch := range []string{"amd64", "arm64", "s390x"} {
		all = append(all, forArch(t, testnode.Busybox(t, arch), arch))
	}
	pushIndex(t, s.Handler, "many", index(t, all...), all)
	for platform, want := range map[string]int{"linux/arm64": 2 + 1 + 1 + 1 + 1, "linux/amd64 linux/arm64": 2 + 1 + 2 + 2 + 1} {
		out := filepath.Join(dir, strings.ReplaceAll(platform, "/", "-")+".tar")
		b := images.Bundle{Out: out, Images: []string{s.host + "/many:1"}, Platforms: strings.Fields(platform), Report: silent}
		if _, err := b.Write(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := entriesOf(t, out); len(got) != want || !slices.Contains(got, "index.json") {
			t.Errorf("%s: the bundle has %q, want %d entries", platform, got, want)
		}
	}
	b := images.Bundle{Out: filepath.Join(dir, "none.tar"), Images: []string{s.host + "/many:1"}, Platforms: []string{"linux/riscv64"}, Report: silent}
	_, err := b.Write(t.Context())
	testerror.OneLine(t, err, "it is not for linux/riscv64")
}

// pushIndex puts an index and its images into a registry.
func pushIndex(t *testing.T, to http.Handler, repository string, index v1.ImageIndex, all []v1.Image) {
	t.Helper()
	put := func(reference string, mediaType types.MediaType, body []byte) {
		t.Helper()
		r := httptest.NewRequest(http.MethodPut, "/v2/"+repository+"/manifests/"+reference, bytes.NewReader(body))
		r.Header.Set("Content-Type", string(mediaType))
		w := httptest.NewRecorder()
		if to.ServeHTTP(w, r); w.Code != http.StatusCreated {
			t.Fatalf("%s: %d %s", reference, w.Code, w.Body)
		}
	}
	for _, image := range all {
		testnode.Push(t, to, repository, image)
		digest, err := image.Digest()
		body, err2 := image.RawManifest()
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		put(digest.String(), types.DockerManifestSchema2, body)
	}
	body, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	put("1", types.OCIImageIndex, body)
}
