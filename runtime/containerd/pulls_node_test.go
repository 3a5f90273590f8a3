package containerd_test

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc/metadata"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"brink/internal/testdisk"
	"brink/runtime/testnode"
)

const brokenImage = "broken.test/app:1"

// brokenRegistry ends each connection after a third of a layer, and does not answer the
// request that comes next, as when a link is down.
type brokenRegistry struct {
	http.Handler
	mu   sync.Mutex
	down bool
	sent map[string]int64 // bytes of each layer
	size map[string]int64
}

func (b *brokenRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
		b.Handler.ServeHTTP(w, r)
		return
	}
	whole := httptest.NewRecorder()
	plain := r.Clone(r.Context())
	plain.Header.Del("Range")
	b.Handler.ServeHTTP(whole, plain)
	body := whole.Body.Bytes()
	if len(body) < 1<<20 { // a configuration
		b.Handler.ServeHTTP(w, r)
		return
	}
	b.mu.Lock()
	b.down = !b.down
	down := !b.down
	b.mu.Unlock()
	if down {
		http.Error(w, "the link is down", http.StatusServiceUnavailable)
		return
	}
	b.third(w, r, body)
}

// third sends up to a third of a layer from where the client wants it.
func (b *brokenRegistry) third(w http.ResponseWriter, r *http.Request, body []byte) {
	from, size, status := int64(0), int64(len(body)), http.StatusOK
	if start, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		from, _ = strconv.ParseInt(strings.TrimSuffix(start, "-"), 10, 64)
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", "bytes "+strconv.FormatInt(from, 10)+"-"+strconv.FormatInt(size-1, 10)+"/"+strconv.FormatInt(size, 10))
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size-from, 10))
	w.WriteHeader(status)
	to := min(size, from+size/3+1)
	n, _ := w.Write(body[from:to])
	_ = http.NewResponseController(w).Flush()
	b.mu.Lock()
	b.sent[r.URL.Path] += int64(n)
	b.size[r.URL.Path] = size
	if to == size {
		b.down = false
	}
	b.mu.Unlock()
	if to < size {
		panic(http.ErrAbortHandler)
	}
}

// fetched returns how many bytes of layers were sent, and how many there are.
func (b *brokenRegistry) fetched() (sent, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for layer, n := range b.sent {
		sent += n
		size += b.size[layer]
	}
	return sent, size
}

// newBroken starts a node that pulls from a broken registry.
func newBroken(t *testing.T, keep time.Duration) (*testnode.Node, *brokenRegistry) {
	t.Helper()
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	testnode.Push(t, content, "app", testnode.Busybox(t, "broken"))
	b := &brokenRegistry{Handler: content, sent: map[string]int64{}, size: map[string]int64{}}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	n := testnode.New(t)
	// A disk of its own: on a full one, nothing of a broken pull is kept.
	testdisk.MountAt(t, n.Config.Layout.ContainerdRoot(), "tmpfs", 0, "size=256m")
	n.Config.KeepPulls = keep
	text := "mirrors:\n  broken.test: {endpoint: [" + strconv.Quote(server.URL) + "]}\n"
	if err := os.WriteFile(n.Config.RegistriesFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() { n.Stop() })
	return n, b
}

func tryPull(n *testnode.Node, sandbox *cri.PodSandboxConfig) error {
	_, err := n.Images().PullImage(n.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: brokenImage}, SandboxConfig: sandbox})
	return err
}

// unfinished returns the downloads that containerd has kept.
func unfinished(t *testing.T, n *testnode.Node) int {
	t.Helper()
	found, err := n.Client().ContentStore().ListStatuses(n.CRIContext())
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// TestBrokenPullGoesOn: every byte of a layer is fetched once, also over a restart and a
// kill, and when the image is there nothing is left behind.
func TestBrokenPullGoesOn(t *testing.T) {
	n, b := newBroken(t, 0)
	for i, between := range []func(){func() { n.Stop(); n.Start() }, n.Crash, nil} {
		err := tryPull(n, nil)
		if (err == nil) != (between == nil) {
			t.Fatalf("pull %d: %v", i, err)
		}
		if between != nil {
			time.Sleep(4 * time.Second) // containerd collects garbage before that
			between()
		}
	}
	if sent, size := b.fetched(); sent != size || size == 0 {
		t.Errorf("%d bytes were fetched of %d", sent, size)
	}
	n.WaitImage(brokenImage, true)
	left, err := n.Client().LeasesService().List(n.CRIContext(), `labels."brink.io/pull"`)
	if err != nil || len(left) > 0 {
		t.Errorf("leases are left: %v %v", left, err)
	}
}

// TestBrokenPullIsForgotten: what was fetched goes with the last pod that wanted it.
func TestBrokenPullIsForgotten(t *testing.T) {
	n, _ := newBroken(t, time.Second)
	sandbox, pod := n.Sandbox("wants")
	if tryPull(n, pod) == nil {
		t.Fatal("the pull did not break")
	}
	time.Sleep(5 * time.Second)
	if unfinished(t, n) == 0 {
		t.Fatalf("the download went although a pod wants it:\n%s", n.Log)
	}
	if _, err := n.Runtime().StopPodSandbox(n.Context(), &cri.StopPodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Runtime().RemovePodSandbox(n.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(testnode.Patience); unfinished(t, n) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the download stays:\n%s", n.Log)
		}
	}
}

// TestDamagedDownloadBeginsAnew: a power cut may leave wrong bytes in what was fetched.
func TestDamagedDownloadBeginsAnew(t *testing.T) {
	n, _ := newBroken(t, 0)
	if tryPull(n, nil) == nil {
		t.Fatal("the pull did not break")
	}
	if err := n.End(syscall.SIGKILL); err == nil {
		t.Fatal("the node was not killed")
	}
	files, err := filepath.Glob(filepath.Join(n.Config.Layout.ContainerdRoot(), "io.containerd.content.v1.content/ingest/*/data"))
	if err != nil || len(files) != 1 {
		t.Fatalf("unfinished downloads are %v %v", files, err)
	}
	f, err := os.OpenFile(files[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("damaged"), 1000)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	n.Start()
	for i := 0; ; i++ {
		if err = tryPull(n, nil); err == nil {
			break
		}
		if i == 10 {
			t.Fatalf("the image cannot be pulled any more: %v", err)
		}
	}
	n.WaitImage(brokenImage, true)
}

// TestPullWaitsForArchives: a pull at a start waits until the archives were read, and has
// what it wanted when one of them brings the image and there is no registry.
func TestPullWaitsForArchives(t *testing.T) {
	n := testnode.New(t)
	n.ArchivesAfter = 4 * time.Second
	n.Start()
	t.Cleanup(func() { n.Stop() })
	type answer struct {
		ref string
		err error
	}
	pull := func(image string) <-chan answer {
		out := make(chan answer, 1)
		go func() {
			r, err := n.Images().PullImage(n.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
			out <- answer{r.GetImageRef(), err}
		}()
		return out
	}
	comes, stays := pull("127.0.0.1:1/comes:1"), pull("127.0.0.1:1/stays:1")
	select {
	case a := <-stays:
		t.Fatalf("the pull did not wait: %v", a)
	case <-time.After(time.Second):
	}
	n.ImportByBrink("127.0.0.1:1/comes:1", testnode.Busybox(t, "comes"))
	a := <-comes
	if a.err != nil {
		t.Fatal(a.err)
	}
	found, err := n.Images().ImageStatus(n.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: a.ref}})
	if err != nil || found.Image == nil {
		t.Errorf("the pull returned %s, which is not there: %v", a.ref, err)
	}
	if a := <-stays; a.err == nil {
		t.Errorf("an image that nobody has was pulled: %v", a)
	}
}

// newDenying starts a node, whose archives are read after a while, with a registry that
// answers the repository 403 with this status, and so on, and takes long to send slow, which
// is returned.
func newDenying(t *testing.T) (*testnode.Node, v1.Image) {
	t.Helper()
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	pushed := testnode.Busybox(t, "of the registry")
	testnode.Push(t, content, "slow", pushed)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, _ := strconv.Atoi(strings.Split(r.URL.Path+"//", "/")[2])
		switch {
		case status > 0:
			w.WriteHeader(status)
			return
		case strings.Contains(r.URL.Path, "/blobs/"):
			time.Sleep(6 * time.Second) // longer than a registry has to answer at all
		}
		content.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	n := testnode.New(t)
	n.ArchivesAfter = 6 * time.Second
	// The first mirror is away: the error that the CRI gives for both is often its.
	text := "mirrors:\n  denied.test: {endpoint: [\"http://127.0.0.1:1\", " + strconv.Quote(server.URL) + "]}\n"
	if err := os.WriteFile(n.Config.RegistriesFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() { n.Stop() })
	return n, pushed
}

// TestDeniedPullIsDenied: what a registry says counts, also when an archive has brought an
// image under the name. A registry that needs time to send the image has it.
func TestDeniedPullIsDenied(t *testing.T) {
	n, pushed := newDenying(t)
	names := []string{"denied.test/401:1", "denied.test/403:1", "denied.test/404:1", "denied.test/slow:1"}
	type answer struct {
		name, ref string
		err       error
	}
	answers := make(chan answer, len(names))
	for _, name := range names {
		go func() {
			r, err := n.Images().PullImage(n.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: name}})
			answers <- answer{name, r.GetImageRef(), err}
		}()
	}
	time.Sleep(time.Second)
	archived := testnode.Busybox(t, "of the archive")
	for _, name := range names {
		n.ImportByBrink(name, archived)
	}
	slow, err := pushed.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	for range names {
		a := <-answers
		if isSlow := strings.Contains(a.name, "slow"); isSlow != (a.err == nil) || isSlow && a.ref != slow.String() {
			t.Errorf("%s is answered by %q, %v", a.name, a.ref, a.err)
		}
	}
}

// TestBrokenPullOfAListIsKept: no pod shows that a list still wants its images.
func TestBrokenPullOfAListIsKept(t *testing.T) {
	n, _ := newBroken(t, time.Second)
	ctx := metadata.AppendToOutgoingContext(n.Context(), "brink-image-list", "true")
	if _, err := n.Images().PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: brokenImage}}); err == nil {
		t.Fatal("the pull did not break")
	}
	for range 2 {
		time.Sleep(4 * time.Second)
		if unfinished(t, n) == 0 {
			t.Fatalf("the download went although a list wants it:\n%s", n.Log)
		}
		n.Crash()
	}
}
