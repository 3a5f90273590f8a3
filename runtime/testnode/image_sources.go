package testnode

import (
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/client"
	tarchive "github.com/containerd/containerd/v2/core/transfer/archive"
	transferimage "github.com/containerd/containerd/v2/core/transfer/image"
	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"brink/runtime/images"
)

// ImportByBrink is what `brink images import` does.
func (n *Node) ImportByBrink(ref string, image v1.Image) {
	n.t.Helper()
	archives := images.Store{Layout: n.Config.Layout}
	if _, err := archives.Import(n.Context(), WriteArchive(n.t, ref, image), false, func(string) {}); err != nil {
		n.t.Fatal(err)
	}
}

// ImportByTransfer is what `ctr images import` does.
func (n *Node) ImportByTransfer(ref string, image v1.Image) {
	n.t.Helper()
	f, err := os.Open(WriteArchive(n.t, ref, image))
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	store := transferimage.NewStore("", transferimage.WithNamedPrefix("import", true),
		transferimage.WithPlatforms(platforms.DefaultSpec()), transferimage.WithUnpack(platforms.DefaultSpec(), ""))
	if err := n.Client().Transfer(n.CRIContext(), tarchive.NewImageImportStream(f, ""), store); err != nil {
		n.t.Fatal(err)
	}
}

// ImportByClient is what `ctr images import --local` does.
func (n *Node) ImportByClient(ref string, image v1.Image) {
	n.t.Helper()
	f, err := os.Open(WriteArchive(n.t, ref, image))
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	ctx := n.CRIContext()
	api := n.Client()
	imported, err := api.Import(ctx, f)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, i := range imported {
		if err := client.NewImage(api, i).Unpack(ctx, ""); err != nil {
			n.t.Fatal(err)
		}
	}
}

// Pull is what the kubelet does, from a registry of the test's own.
func (n *Node) Pull(ref string, image v1.Image) {
	n.t.Helper()
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	repository := strings.TrimSuffix(strings.TrimPrefix(ref, "test.local/"), ":1")
	Push(n.t, content, repository, image)
	server := httptest.NewServer(content)
	n.t.Cleanup(server.Close)
	n.Stop()
	text := fmt.Sprintf("mirrors:\n  test.local:\n    endpoint: [%q]\n", server.URL)
	if err := os.WriteFile(n.Config.RegistriesFile, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.Start()
	if _, err := n.Images().PullImage(n.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: ref}}); err != nil {
		n.t.Fatal(err)
	}
}
