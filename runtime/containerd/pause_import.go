package containerd

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"brink/runtime/images"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ensurePause makes the sandbox image, which runtime/payload/build builds and names,
// available, and waits until the CRI knows it as pinned: the CRI learns of images by
// events. started is when this process began to run containerd.
func (c Config) ensurePause(ctx context.Context, snapshotter string, started time.Time) error {
	api, err := client.New(c.Layout.ContainerdSocket(), client.WithDefaultNamespace(images.Namespace))
	if err != nil {
		return fmt.Errorf("connecting to containerd: %w", err)
	}
	defer api.Close()
	ctx = namespaces.WithNamespace(ctx, images.Namespace)
	if err := c.afterUncleanEnd(ctx, api, started); err != nil {
		return err
	}
	has, err := c.hasPause(ctx, api, snapshotter)
	if err == nil && !has {
		err = c.importPause(ctx, api, snapshotter)
	}
	if err != nil {
		return fmt.Errorf("importing the sandbox image from %s: %w", c.PauseArchive, err)
	}
	return c.waitPause(ctx)
}

// hasPause reports whether exactly the image of the archive is there, unpacked and
// pinned. The check saves a dozen synchronous writes at every start.
func (c Config) hasPause(ctx context.Context, api *client.Client, snapshotter string) (bool, error) {
	want, err := pauseDescriptor(c.PauseArchive)
	if err != nil {
		return false, err
	}
	image, err := api.GetImage(ctx, c.PauseImage)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if image.Target().Digest != want.Digest {
		return false, nil
	}
	for key, value := range images.PinnedLabels() {
		if image.Labels()[key] != value {
			return false, nil
		}
	}
	unpacked, err := image.IsUnpacked(ctx, snapshotter)
	// An error means that content is missing, which is a reason to import too.
	return unpacked && err == nil, nil
}

// pauseDescriptor reads which manifest is in an OCI archive of one image.
func pauseDescriptor(path string) (ocispec.Descriptor, error) {
	f, err := os.Open(path)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer f.Close()
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return ocispec.Descriptor{}, errors.New("it has no index.json")
		}
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if h.Name != ocispec.ImageIndexFile {
			continue
		}
		var index ocispec.Index
		if err := json.NewDecoder(t).Decode(&index); err != nil {
			return ocispec.Descriptor{}, err
		}
		if len(index.Manifests) != 1 {
			return ocispec.Descriptor{}, fmt.Errorf("it has %d images, not one", len(index.Manifests))
		}
		return index.Manifests[0], nil
	}
}

// importPause imports the archive and unpacks its image.
func (c Config) importPause(ctx context.Context, api *client.Client, snapshotter string) error {
	f, err := os.Open(c.PauseArchive)
	if err != nil {
		return err
	}
	defer f.Close()
	imported, err := api.Import(ctx, f, client.WithImageLabels(images.PinnedLabels()))
	if err != nil {
		return err
	}
	for _, i := range imported {
		if i.Name == c.PauseImage {
			return client.NewImage(api, i).Unpack(ctx, snapshotter)
		}
	}
	return fmt.Errorf("it contains no image %s", c.PauseImage)
}

// A start waits for the CRI to learn of the sandbox image, which takes a millisecond. If
// its event does not come, the CRI has a fault that waiting does not cure.
const (
	pausePoll    = 5 * time.Millisecond
	pausePollMax = 500 * time.Millisecond
	pauseTimeout = 30 * time.Second
)

func (c Config) waitPause(ctx context.Context) error {
	conn, err := grpc.NewClient("unix:"+c.Layout.ContainerdSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting to the CRI: %w", err)
	}
	defer conn.Close()
	return waitPinned(ctx, cri.NewImageServiceClient(conn), c.PauseImage, pauseTimeout)
}

// waitPinned waits until the CRI has an image and knows that it is pinned.
func waitPinned(ctx context.Context, service cri.ImageServiceClient, name string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for poll := pausePoll; ; poll = min(2*poll, pausePollMax) {
		status, err := service.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
		if ctx.Err() != nil {
			return ctx.Err() // gRPC's own error for it is not context.Canceled
		}
		if err != nil {
			return fmt.Errorf("asking for the sandbox image: %w", err)
		}
		if status.GetImage().GetPinned() {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waiting for the sandbox image %s: %s after %s: restart brink, or with --debug to see why",
				name, missingPause(status.GetImage()), timeout)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

func missingPause(image *cri.Image) string {
	if image == nil {
		return "it is imported, but the CRI does not list it"
	}
	return "the CRI lists it, but not as protected from garbage collection"
}
