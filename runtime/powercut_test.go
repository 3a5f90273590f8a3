package runtime

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"brink/internal/testdisk"

	containerd "github.com/containerd/containerd/v2/client"
	tarchive "github.com/containerd/containerd/v2/core/transfer/archive"
	transferimage "github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// filesPerLayer times two layers is what a power cut could empty.
const filesPerLayer = 150

// manyFiles is an image of two layers of small files, which stay in memory longest.
// The content of a file is its own name and the image's, over and over.
func manyFiles(t *testing.T, mark string) v1.Image {
	t.Helper()
	image := empty.Image
	for layer := range 2 {
		var content bytes.Buffer
		w := tar.NewWriter(&content)
		for i := range filesPerLayer {
			file := fmt.Sprintf("%s-%d-%d", mark, layer, i)
			body := fileBody(file)
			if err := w.WriteHeader(&tar.Header{Name: file, Mode: 0o644, Size: int64(len(body)), Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(body); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if image, err = mutate.AppendLayers(image, static.NewLayer(content.Bytes(), types.DockerUncompressedLayer)); err != nil {
			t.Fatal(err)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", goruntime.GOARCH
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

func fileBody(file string) []byte { return bytes.Repeat([]byte(file+"\n"), 200) }

// damagedFiles counts the files of mark's image that are not, or not as they were,
// in an unpacked layer below root.
func damagedFiles(root, mark string) int {
	good := 0
	_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasPrefix(d.Name(), mark+"-") {
			return nil
		}
		if content, err := os.ReadFile(path); err == nil && bytes.Equal(content, fileBody(d.Name())) {
			good++
		}
		return nil
	})
	return 2*filesPerLayer - good
}

// TestPowerCutAfterAnImport: whatever was told as done is there after the power
// came back, by every way in which an image comes onto a node.
func TestPowerCutAfterAnImport(t *testing.T) {
	for mark, bring := range map[string]func(*node, string, v1.Image){
		"images-import": (*node).bringByImagesImport,
		"ctr-import":    (*node).bringByTransfer,
		"ctr-local":     (*node).bringByClient,
		"pull":          (*node).bringByPull,
	} {
		t.Run(mark, func(t *testing.T) {
			disk := testdisk.NewDisk(t, 256<<20)
			n := newNode(t)
			n.cfg.Root = filepath.Join(disk.Dir, "root")
			n.start()
			ref := "test.local/" + mark + ":1"
			bring(n, ref, manyFiles(t, mark))

			disk.CutPower(t)
			if err := n.end(syscall.SIGKILL); err == nil {
				t.Fatal("the node was not killed")
			}
			disk.PowerOn(t)
			n.start()
			t.Cleanup(n.stop)
			status, err := n.images().ImageStatus(n.context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
			if err != nil || status.Image == nil {
				t.Errorf("the image is gone: %v", err)
			}
			if bad := damagedFiles(filepath.Join(n.cfg.Root, "io.containerd.snapshotter.v1.overlayfs"), mark); bad > 0 {
				t.Errorf("%d of %d files are missing or wrong", bad, 2*filesPerLayer)
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
			n := newNode(t)
			n.cfg.Root = filepath.Join(disk.Dir, "root")
			n.start()
			a := Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}
			var paths []string
			for _, mark := range marks {
				paths = append(paths, writeArchive(t, "test.local/"+mark+":1", manyFiles(t, mark)))
			}
			told := make(chan string, len(marks))
			go func() {
				defer close(told)
				for i, path := range paths {
					if _, err := a.Import(t.Context(), path); err != nil {
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
			if err := n.end(syscall.SIGKILL); err == nil {
				t.Fatal("the node was not killed")
			}
			for range told { // too late to be known
			}
			disk.PowerOn(t)
			n.start()
			t.Cleanup(n.stop)
			list, err := a.List(n.context())
			if err != nil {
				t.Fatal(err)
			}
			for _, mark := range marks {
				listed := slices.ContainsFunc(list, func(i StoredImage) bool { return i.Name == "test.local/"+mark+":1" })
				bad := damagedFiles(filepath.Join(n.cfg.Root, "io.containerd.snapshotter.v1.overlayfs"), mark)
				if done[mark] && !listed || listed && bad > 0 {
					t.Errorf("%s: told is %t, listed is %t, %d files are wrong", mark, done[mark], listed, bad)
				}
			}
		})
	}
}

func writeArchive(t *testing.T, ref string, image v1.Image) string {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		t.Fatal(err)
	}
	return path
}

func (n *node) bringByImagesImport(ref string, image v1.Image) {
	n.t.Helper()
	archives := Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}
	if _, err := archives.Import(n.context(), writeArchive(n.t, ref, image)); err != nil {
		n.t.Fatal(err)
	}
}

// bringByTransfer is what `ctr images import` does.
func (n *node) bringByTransfer(ref string, image v1.Image) {
	n.t.Helper()
	f, err := os.Open(writeArchive(n.t, ref, image))
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	store := transferimage.NewStore("", transferimage.WithNamedPrefix("import", true),
		transferimage.WithPlatforms(platforms.DefaultSpec()), transferimage.WithUnpack(platforms.DefaultSpec(), ""))
	if err := n.client().Transfer(n.criContext(), tarchive.NewImageImportStream(f, ""), store); err != nil {
		n.t.Fatal(err)
	}
}

// bringByClient is what `ctr images import --local` does.
func (n *node) bringByClient(ref string, image v1.Image) {
	n.t.Helper()
	f, err := os.Open(writeArchive(n.t, ref, image))
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	ctx := n.criContext()
	client := n.client()
	imported, err := client.Import(ctx, f)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, i := range imported {
		if err := containerd.NewImage(client, i).Unpack(ctx, ""); err != nil {
			n.t.Fatal(err)
		}
	}
}

// bringByPull is what the kubelet does, from a registry of the test's own.
func (n *node) bringByPull(ref string, image v1.Image) {
	n.t.Helper()
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	repository := strings.TrimSuffix(strings.TrimPrefix(ref, "test.local/"), ":1")
	push(n.t, content, repository, image)
	server := httptest.NewServer(content)
	n.t.Cleanup(server.Close)
	n.stop()
	text := fmt.Sprintf("mirrors:\n  test.local:\n    endpoint: [%q]\n", server.URL)
	if err := os.WriteFile(n.cfg.RegistriesFile, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.start()
	if _, err := n.images().PullImage(n.context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
		n.t.Fatal(err)
	}
}
