package testnode

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"brink/runtime/images"
)

// ImportImage puts an image into the node under ref.
func (n *Node) ImportImage(ref string, image v1.Image) {
	n.t.Helper()
	n.importArchive(ref, image)
	n.WaitImage(ref, true)
}

// ImportLabelled imports the image of an archive with these labels only.
func (n *Node) ImportLabelled(ref string, labels map[string]string) {
	n.t.Helper()
	n.importArchive(ref, Busybox(n.t, ref), client.WithImageLabels(labels))
}

func (n *Node) importArchive(ref string, image v1.Image, options ...client.ImportOpt) {
	n.t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		n.t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := tarball.Write(tag, image, &archive); err != nil {
		n.t.Fatal(err)
	}
	api, err := client.New(n.Config.Layout.ContainerdSocket(), client.WithDefaultNamespace(images.Namespace))
	if err != nil {
		n.t.Fatal(err)
	}
	defer api.Close()
	ctx := namespaces.WithNamespace(n.Context(), images.Namespace)
	if _, err := api.Import(ctx, &archive, options...); err != nil {
		n.t.Fatal(err)
	}
}

// Busybox is an image of the host's static busybox and a shell link, the same
// for the same labels.
func Busybox(t *testing.T, labels ...string) v1.Image {
	t.Helper()
	content, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("install busybox-static: %v", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, h := range []*tar.Header{
		{Name: "bin/", Mode: 0o755, Typeflag: tar.TypeDir},
		{Name: "bin/busybox", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg},
		{Name: "bin/sh", Linkname: "busybox", Typeflag: tar.TypeSymlink},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Env = []string{"PATH=/bin"}
	config.Config.Labels = map[string]string{}
	for _, label := range labels {
		config.Config.Labels[label] = ""
	}
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// CreateArchive writes an image archive, compressed when the name says so.
func CreateArchive(t *testing.T, path, ref string) {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	image := Busybox(t, ref)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var w io.Writer = f
	switch filepath.Ext(path) {
	case ".gz":
		z := gzip.NewWriter(f)
		defer z.Close()
		w = z
	case ".zst":
		z, err := zstd.NewWriter(f)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		w = z
	}
	if err := tarball.Write(tag, image, w); err != nil {
		t.Fatal(err)
	}
}

// WaitPinned waits until the CRI has an image and says whether it is pinned.
func (n *Node) WaitPinned(ref string, want bool) {
	n.t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(10 * time.Millisecond) {
		status, err := n.Images().ImageStatus(n.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		if err != nil {
			n.t.Fatal(err)
		}
		if status.Image != nil && status.Image.Pinned == want {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("image %s is %v, want pinned %t", ref, status.Image, want)
		}
	}
}

// WaitImage waits until the CRI lists an image, or no longer does.
func (n *Node) WaitImage(ref string, there bool) {
	n.t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(10 * time.Millisecond) {
		status, err := n.Images().ImageStatus(n.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		if err != nil {
			n.t.Fatal(err)
		}
		if (status.Image != nil) == there {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("image %s: listed is %t, want %t", ref, !there, there)
		}
	}
}

// FilesPerLayer times two layers is what a power cut could empty.
const FilesPerLayer = 150

// ManyFiles is an image of two layers of small files, which stay in memory longest.
// The content of a file is its own name and the image's, over and over.
func ManyFiles(t *testing.T, mark string) v1.Image {
	t.Helper()
	image := empty.Image
	for layer := range 2 {
		var content bytes.Buffer
		w := tar.NewWriter(&content)
		for i := range FilesPerLayer {
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
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

func fileBody(file string) []byte { return bytes.Repeat([]byte(file+"\n"), 200) }

// DamagedFiles counts the files of mark's image that are not, or not as they were,
// in an unpacked layer below root.
func DamagedFiles(root, mark string) int {
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
	return 2*FilesPerLayer - good
}

// WriteArchive writes an archive of an image and returns its path.
func WriteArchive(t *testing.T, ref string, image v1.Image) string {
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
