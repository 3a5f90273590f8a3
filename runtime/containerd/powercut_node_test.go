package containerd_test

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"brink/internal/layout"
	"brink/internal/testdisk"
	"brink/runtime/images"
	"brink/runtime/testnode"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPowerCutAfterAnImport: whatever was told as done is there after the power
// came back, by every way in which an image comes onto a node.
func TestPowerCutAfterAnImport(t *testing.T) {
	for mark, bring := range map[string]func(*testnode.Node, string, v1.Image){
		"images-import": (*testnode.Node).ImportByBrink,
		"ctr-import":    (*testnode.Node).ImportByTransfer,
		"ctr-local":     (*testnode.Node).ImportByClient,
		"pull":          (*testnode.Node).Pull,
	} {
		t.Run(mark, func(t *testing.T) {
			disk := testdisk.NewDisk(t, 256<<20)
			n := testnode.New(t)
			n.Config.Layout = layout.At(disk.Dir, n.Config.Layout.Run())
			n.Start()
			ref := "test.local/" + mark + ":1"
			bring(n, ref, testnode.ManyFiles(t, mark))

			disk.CutPower(t)
			if err := n.End(syscall.SIGKILL); err == nil {
				t.Fatal("the node was not killed")
			}
			disk.PowerOn(t)
			n.Start()
			t.Cleanup(n.Stop)
			status, err := n.Images().ImageStatus(n.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
			if err != nil || status.Image == nil {
				t.Errorf("the image is gone: %v", err)
			}
			if bad := testnode.DamagedFiles(filepath.Join(n.Config.Layout.ContainerdRoot(), "io.containerd.snapshotter.v1.overlayfs"), mark); bad > 0 {
				t.Errorf("%d of %d files are missing or wrong", bad, 2*testnode.FilesPerLayer)
			}
		})
	}
}

// TestPowerCutInAnImport cuts the power at some moment of a row of imports: what was
// told as done is whole, and so is whatever else is listed after it.
func TestPowerCutInAnImport(t *testing.T) {
	marks := []string{"a", "b", "c", "d"}
	for after := range 3 { // of them are told as done
		t.Run(marks[after], func(t *testing.T) {
			disk := testdisk.NewDisk(t, 256<<20)
			n := testnode.New(t)
			n.Config.Layout = layout.At(disk.Dir, n.Config.Layout.Run())
			n.Start()
			a := images.Store{Layout: n.Config.Layout}
			var paths []string
			for _, mark := range marks {
				paths = append(paths, testnode.WriteArchive(t, "test.local/"+mark+":1", testnode.ManyFiles(t, mark)))
			}
			told := make(chan string, len(marks))
			go func() {
				defer close(told)
				for i, path := range paths {
					if _, err := a.Import(t.Context(), path, false, func(string) {}); err != nil {
						return // the disk is gone
					}
					told <- marks[i]
				}
			}()
			done := map[string]bool{}
			for range after + 1 {
				done[<-told] = true
			}
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			disk.CutPower(t)
			if err := n.End(syscall.SIGKILL); err == nil {
				t.Fatal("the node was not killed")
			}
			for range told { // too late to be known
			}
			disk.PowerOn(t)
			n.Start()
			t.Cleanup(n.Stop)
			list, err := a.List(n.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, mark := range marks {
				wantWhole(t, n, list, mark, done[mark])
			}
		})
	}
}

// wantWhole: an image that was told as done is listed, and one that is listed is whole.
func wantWhole(t *testing.T, n *testnode.Node, list []images.Stored, mark string, told bool) {
	t.Helper()
	listed := slices.ContainsFunc(list, func(i images.Stored) bool { return i.Name == "test.local/"+mark+":1" })
	bad := testnode.DamagedFiles(filepath.Join(n.Config.Layout.ContainerdRoot(), "io.containerd.snapshotter.v1.overlayfs"), mark)
	if told && !listed || listed && bad > 0 {
		t.Errorf("%s: told is %t, listed is %t, %d files are wrong", mark, told, listed, bad)
	}
}
