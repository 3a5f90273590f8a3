package images_test

import (
	"bytes"
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/runtime/images"
	"brink/runtime/testnode"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

// TestMarksOfAnUncleanEnd: only an end that was not in order calls for a look at
// images, and the call stays until that look is done.
func TestMarksOfAnUncleanEnd(t *testing.T) {
	n := testnode.New(t)
	check := func(when string, inUse, notChecked bool) {
		t.Helper()
		if exists(n.Config.Layout.ContainerdInUse()) != inUse || images.Unchecked(n.Config.Layout) != notChecked {
			t.Errorf("%s: in use is %t, unchecked is %t", when, !inUse, !notChecked)
		}
	}
	n.Start()
	check("first start", true, false)
	n.Stop()
	check("stopped in order", false, false)
	n.Start()
	n.Crash()
	check("after a kill", true, true)
	n.Stop()
	check("stopped before the check", false, true)
	n.Start()
	check("started again", true, true)
	a := storeOf(n)
	if err := a.RecheckNow(n.Context(), running(t, a)); err != nil {
		t.Fatal(err)
	}
	check("checked", true, false)
	n.Stop()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// blob is the file of a blob of an image: its config, or its layer.
func blob(t *testing.T, n *testnode.Node, image v1.Image, layer bool) string {
	t.Helper()
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	hash := manifest.Config.Digest
	if layer {
		hash = manifest.Layers[0].Digest
	}
	return images.BlobPath(n.Client(), n.Config.Layout, digest.Digest(hash.String()))
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
		all[mark] = testnode.ManyFiles(t, mark)
	}
	i.Pull("test.local/pulled:1", all["pulled"])
	for _, mark := range []string{"flipped", "cut", "gone", "fine"} {
		if err := os.Rename(testnode.WriteArchive(t, "test.local/"+mark+":1", all[mark]), filepath.Join(i.dir, mark+".tar")); err != nil {
			t.Fatal(err)
		}
	}
	i.run()
	i.ImportByBrink("test.local/hand:1", all["hand"])
	flip(t, blob(t, i.Node, all["flipped"], true))
	flip(t, blob(t, i.Node, all["hand"], false))
	flip(t, blob(t, i.Node, all["pulled"], true))
	if err := cmp.Or(os.Truncate(blob(t, i.Node, all["cut"], true), 100), os.Remove(blob(t, i.Node, all["gone"], false))); err != nil {
		t.Fatal(err)
	}
	untouched, err := os.Stat(blob(t, i.Node, all["fine"], true))
	if err != nil {
		t.Fatal(err)
	}
	i.Crash()
	if err := i.RecheckNow(i.Context(), running(t, i.Store)); err != nil {
		t.Fatal(err)
	}
	for _, mark := range []string{"flipped", "cut", "gone", "pulled", "fine"} {
		i.WaitImage("test.local/"+mark+":1", true)
		told := strings.Count(logged.String(), "damaged and is dropped: it is imported or pulled again\" image=test.local/"+mark+":1")
		if want := map[bool]int{true: 0, false: 1}[mark == "fine"]; told != want {
			t.Errorf("%s is told in %d lines, want %d:\n%s", mark, told, want, logged.String())
		}
	}
	i.WaitImage("test.local/hand:1", false)
	if now, err := os.Stat(blob(t, i.Node, all["fine"], true)); err != nil || !os.SameFile(now, untouched) {
		t.Errorf("the image that was whole was written again: %v", err)
	}
	damaged, err := images.DamagedBlobs(i.CRIContext(), i.Client(), i.Config.Layout)
	if err != nil || len(damaged) > 0 {
		t.Errorf("%v are still damaged (%v)", damaged, err)
	}
}

// TestDamagedSandboxImage: it is looked at before the node counts as ready, for
// without it there is no pod.
func TestDamagedSandboxImage(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	found, err := n.Client().GetImage(n.CRIContext(), n.Config.PauseImage)
	if err != nil {
		t.Fatal(err)
	}
	config, err := found.Config(n.CRIContext())
	if err != nil {
		t.Fatal(err)
	}
	path := images.BlobPath(n.Client(), n.Config.Layout, config.Digest)
	flip(t, path)
	n.Crash()
	t.Cleanup(n.Stop)
	if text, err := os.ReadFile(path); err != nil || digest.FromBytes(text) != config.Digest {
		t.Errorf("its configuration is still damaged: %v", err)
	}
	n.Sandbox("damaged")
}

// TestUncleanEndLeavesNoParts: what an import had unpacked in part when the power
// failed is collected; what a pod holds is not.
func TestUncleanEndLeavesNoParts(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	ctx, client := n.CRIContext(), n.Client()
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
	n.Crash()
	t.Cleanup(n.Stop)
	ctx, client = n.CRIContext(), n.Client()
	left, err := client.LeasesService().List(ctx)
	if err != nil || len(left) != 1 || left[0].ID != "pod" {
		t.Errorf("there are the leases %v (%v), want pod's", left, err)
	}
	if err := storeOf(n).RecheckNow(ctx, running(t, storeOf(n))); err != nil {
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
