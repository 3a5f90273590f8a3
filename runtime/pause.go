package runtime

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criNamespace is where containerd's CRI keeps its images.
const criNamespace = "k8s.io"

const (
	managedLabel = "io.cri-containerd.image"
	pinnedLabel  = "io.cri-containerd.pinned"
)

// managed are the labels by which the CRI knows an image as its own, pinned
// those of one that the kubelet's image garbage collection must leave alone too.
var (
	managed = map[string]string{managedLabel: "managed"}
	pinned  = map[string]string{managedLabel: "managed", pinnedLabel: "pinned"}
)

// ensurePause makes the sandbox image available and waits until the CRI, which
// learns of images by events, knows it as pinned. started is when this process
// began to run containerd.
func (c Config) ensurePause(ctx context.Context, snapshotter string, started time.Time) error {
	client, err := containerd.New(c.Socket, containerd.WithDefaultNamespace(criNamespace))
	if err != nil {
		return fmt.Errorf("connecting to containerd: %w", err)
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	if err := c.afterUncleanEnd(ctx, client, started); err != nil {
		return err
	}
	has, err := c.hasPause(ctx, client, snapshotter)
	if err == nil && !has {
		err = c.importPause(ctx, client, snapshotter)
	}
	if err != nil {
		return fmt.Errorf("importing the sandbox image from %s: %w", c.PauseArchive, err)
	}
	return c.waitPause(ctx)
}

// afterUncleanEnd drops what was not brought to its end, and a sandbox image that
// is damaged: without it there is no pod. Other images are looked at later.
func (c Config) afterUncleanEnd(ctx context.Context, client *containerd.Client, started time.Time) error {
	if !unchecked(c.Root) {
		return nil
	}
	if err := dropLeases(ctx, client, started); err != nil {
		return err
	}
	image, err := client.ImageService().Get(ctx, c.PauseImage)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	content := blobsOf(client, c.Root)
	damaged, err := content.damagedIn(ctx, image.Target)
	if err != nil || len(damaged) == 0 {
		return err
	}
	_, err = content.drop(ctx, client, damaged)
	return err
}

// hasPause tells whether the very image of the archive is there, unpacked and
// pinned. Looking spares a dozen synchronous writes at every start.
func (c Config) hasPause(ctx context.Context, client *containerd.Client, snapshotter string) (bool, error) {
	want, err := pauseDescriptor(c.PauseArchive)
	if err != nil {
		return false, err
	}
	image, err := client.GetImage(ctx, c.PauseImage)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if image.Target().Digest != want.Digest {
		return false, nil
	}
	for key, value := range pinned {
		if image.Labels()[key] != value {
			return false, nil
		}
	}
	unpacked, err := image.IsUnpacked(ctx, snapshotter)
	// Missing content is not found, and a reason to import as well.
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

func (c Config) importPause(ctx context.Context, client *containerd.Client, snapshotter string) error {
	f, err := os.Open(c.PauseArchive)
	if err != nil {
		return err
	}
	defer f.Close()
	imported, err := client.Import(ctx, f, containerd.WithImageLabels(pinned))
	if err != nil {
		return err
	}
	for _, i := range imported {
		if i.Name == c.PauseImage {
			return containerd.NewImage(client, i).Unpack(ctx, snapshotter)
		}
	}
	return fmt.Errorf("it contains no image %s", c.PauseImage)
}

// A start waits for the CRI to learn of the sandbox image. Its event takes a
// millisecond; when it does not come the CRI has a trouble that asking will not
// cure.
const (
	pausePoll    = 5 * time.Millisecond
	pausePollMax = 500 * time.Millisecond
	pauseTimeout = 30 * time.Second
)

func (c Config) waitPause(ctx context.Context) error {
	conn, err := grpc.NewClient("unix:"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting to the CRI: %w", err)
	}
	defer conn.Close()
	return waitPinned(ctx, cri.NewImageServiceClient(conn), c.PauseImage, pauseTimeout)
}

// waitPinned waits until the CRI has an image and knows that it is pinned.
func waitPinned(ctx context.Context, images cri.ImageServiceClient, name string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for poll := pausePoll; ; poll = min(2*poll, pausePollMax) {
		status, err := images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: name}})
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
