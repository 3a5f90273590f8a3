package runtime

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// crash ends the node as a power cut does, and starts it again.
func (n *node) crash() {
	n.t.Helper()
	if err := n.end(syscall.SIGKILL); err == nil {
		n.t.Fatal("the node was not killed")
	}
	n.start()
}

// TestMarksOfAnUncleanEnd: only an end that was not in order calls for a look at
// images, and the call stays until that look is done.
func TestMarksOfAnUncleanEnd(t *testing.T) {
	n := newNode(t)
	check := func(when string, inUse, notChecked bool) {
		t.Helper()
		if exists(filepath.Join(n.cfg.Root, inUseFile)) != inUse || unchecked(n.cfg.Root) != notChecked {
			t.Errorf("%s: in use is %t, unchecked is %t", when, !inUse, !notChecked)
		}
	}
	n.start()
	check("first start", true, false)
	n.stop()
	check("stopped in order", false, false)
	n.start()
	n.crash()
	check("after a kill", true, true)
	n.stop()
	check("stopped before the check", false, true)
	n.start()
	check("started again", true, true)
	a := Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}
	if err := a.recheck(n.context(), ""); err != nil {
		t.Fatal(err)
	}
	check("checked", true, false)
	n.stop()
}

// blob is the file of a blob of an image: its config, or its layer.
func (n *node) blob(image v1.Image, layer bool) string {
	n.t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		n.t.Fatal(err)
	}
	hash := manifest.Config.Digest
	if layer {
		hash = manifest.Layers[0].Digest
	}
	return blobsOf(n.client(), n.cfg.Root).path(digest.Digest(hash.String()))
}

// flip changes one byte in the middle of a file.
func flip(t *testing.T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := cmp.Or(os.Chmod(path, 0o600), os.WriteFile(path, text, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedImagesComeBack: after a power cut each damaged image is dropped, told
// in one line and brought again by the way it came; the others are left alone.
func TestDamagedImagesComeBack(t *testing.T) {
	i := newImports(t)
	var logged bytes.Buffer
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))

	all := map[string]v1.Image{}
	for _, mark := range []string{"flipped", "cut", "gone", "pulled", "hand", "fine"} {
		all[mark] = manyFiles(t, mark)
	}
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	push(t, store, "pulled", all["pulled"])
	server := httptest.NewServer(store)
	defer server.Close()
	text := fmt.Sprintf("mirrors:\n  test.local:\n    endpoint: [%q]\n", server.URL)
	if err := os.WriteFile(i.cfg.RegistriesFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	i.stop()
	i.start()
	for _, mark := range []string{"flipped", "cut", "gone", "fine"} {
		if err := os.Rename(writeArchive(t, "test.local/"+mark+":1", all[mark]), filepath.Join(i.dir, mark+".tar")); err != nil {
			t.Fatal(err)
		}
	}
	i.run()
	i.bringByImagesImport("test.local/hand:1", all["hand"])
	if _, err := i.images().PullImage(i.context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: "test.local/pulled:1"}}); err != nil {
		t.Fatal(err)
	}
	flip(t, i.blob(all["flipped"], true))
	flip(t, i.blob(all["hand"], false))
	flip(t, i.blob(all["pulled"], true))
	if err := cmp.Or(os.Truncate(i.blob(all["cut"], true), 100), os.Remove(i.blob(all["gone"], false))); err != nil {
		t.Fatal(err)
	}
	untouched, err := os.Stat(i.blob(all["fine"], true))
	if err != nil {
		t.Fatal(err)
	}
	i.crash()
	if err := i.recheck(i.context(), i.dir); err != nil {
		t.Fatal(err)
	}
	for _, mark := range []string{"flipped", "cut", "gone", "pulled", "fine"} {
		i.waitImage("test.local/"+mark+":1", true)
		told := strings.Count(logged.String(), "damaged and is dropped: it is imported or pulled again\" component=images image=test.local/"+mark+":1")
		if want := map[bool]int{true: 0, false: 1}[mark == "fine"]; told != want {
			t.Errorf("%s is told in %d lines, want %d:\n%s", mark, told, want, logged.String())
		}
	}
	i.waitImage("test.local/hand:1", false)
	if now, err := os.Stat(i.blob(all["fine"], true)); err != nil || !os.SameFile(now, untouched) {
		t.Errorf("the image that was whole was written again: %v", err)
	}
	damaged, err := blobsOf(i.client(), i.cfg.Root).damaged(i.criContext())
	if err != nil || len(damaged) > 0 {
		t.Errorf("%v are still damaged (%v)", damaged, err)
	}
}

// TestDamagedSandboxImage: it is looked at before the node counts as ready, for
// without it there is no pod.
func TestDamagedSandboxImage(t *testing.T) {
	n := newNode(t)
	n.start()
	found, err := n.client().GetImage(n.criContext(), n.cfg.PauseImage)
	if err != nil {
		t.Fatal(err)
	}
	config, err := found.Config(n.criContext())
	if err != nil {
		t.Fatal(err)
	}
	path := blobsOf(n.client(), n.cfg.Root).path(config.Digest)
	flip(t, path)
	n.crash()
	t.Cleanup(n.stop)
	if text, err := os.ReadFile(path); err != nil || digest.FromBytes(text) != config.Digest {
		t.Errorf("its configuration is still damaged: %v", err)
	}
	n.sandbox("damaged")
}

// TestUncleanEndLeavesNoParts: what an import had unpacked in part when the power
// failed is collected; what a pod holds is not.
func TestUncleanEndLeavesNoParts(t *testing.T) {
	n := newNode(t)
	n.start()
	ctx, client := n.criContext(), n.client()
	overlay := client.SnapshotService("overlayfs")
	for name, opts := range map[string][]leases.Opt{"import": {leases.WithExpiration(1 << 40)}, "pod": nil} {
		lease, err := client.LeasesService().Create(ctx, append(opts, leases.WithID(name))...)
		if err != nil {
			t.Fatal(err)
		}
		held := leases.WithLease(ctx, lease.ID)
		if _, err := overlay.Prepare(held, "extract-"+name, ""); err != nil {
			t.Fatal(err)
		}
	}
	n.crash()
	t.Cleanup(n.stop)
	ctx, client = n.criContext(), n.client()
	left, err := client.LeasesService().List(ctx)
	if err != nil || len(left) != 1 || left[0].ID != "pod" {
		t.Errorf("there are the leases %v (%v), want pod's", left, err)
	}
	if err := (Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}).recheck(ctx, ""); err != nil {
		t.Fatal(err)
	}
	var parts []string
	err = client.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if strings.HasPrefix(info.Name, "extract-") {
			parts = append(parts, info.Name)
		}
		return nil
	})
	if err != nil || !slices.Equal(parts, []string{"extract-pod"}) {
		t.Errorf("there are %q (%v), want the pod's", parts, err)
	}
}

// TestWholeBlobs: by size and by every byte, at the edges of what is read at once.
func TestWholeBlobs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, size := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk} {
		good := bytes.Repeat([]byte("x"), size)
		info := content.Info{Digest: digest.FromBytes(good), Size: int64(size)}
		variants := map[string][]byte{"good": good, "longer": append(slices.Clone(good), 'x')}
		if size > 0 {
			variants["shorter"] = good[:size-1]
			variants["last byte"] = append(slices.Clone(good[:size-1]), 'y')
		}
		for what, text := range variants {
			path := filepath.Join(dir, "blob")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			whole, err := matches(t.Context(), f, info)
			f.Close()
			if err != nil || whole != (what == "good") {
				t.Errorf("%d bytes, %s: whole is %t (%v)", size, what, whole, err)
			}
		}
	}
}

// TestUnreadableIsNotDamaged: what cannot be opened now, as with too many open files
// while pods start, is not dropped. A link to itself is the same kind of error.
func TestUnreadableIsNotDamaged(t *testing.T) {
	t.Parallel()
	b := blobs{dir: t.TempDir()}
	info := content.Info{Digest: digest.FromString("x"), Size: 1}
	if err := os.MkdirAll(filepath.Dir(b.path(info.Digest)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.path(info.Digest), b.path(info.Digest)); err != nil {
		t.Fatal(err)
	}
	if whole, err := b.isWhole(t.Context(), info); !errors.Is(err, unix.ELOOP) {
		t.Errorf("whole is %t (%v), want an error", whole, err)
	}
}

func TestLowestPriority(t *testing.T) {
	t.Parallel()
	var nice, class int
	atLowestPriority(func() {
		raw, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
		if err != nil {
			t.Error(err)
		}
		nice = 20 - raw // as the kernel has it
		r, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(unix.Gettid()), 0)
		if errno != 0 {
			t.Error(errno)
		}
		class = int(r)
	})
	if nice != lowestNice || class != ioprioIdle {
		t.Errorf("nice is %d, the class of I/O %#x", nice, class)
	}
}
