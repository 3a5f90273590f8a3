package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"brink/internal/layout"
	"brink/internal/lifecycle"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
)

// Unchecked reports whether images have to be checked: containerd did not end in order,
// and they were not checked since.
func Unchecked(l layout.Layout) bool {
	_, err := os.Lstat(l.ImagesUnchecked())
	return !errors.Is(err, fs.ErrNotExist)
}

// recheckDelay lets the pods of a start begin first.
const recheckDelay = 10 * time.Second

// Recheck checks all images when the last run of containerd did not end in order, at the
// lowest priority. A damaged image is dropped, logged in one line, and imported again by
// dir or pulled again. What runs goes on.
//
// Downloaded content is checked, by size and digest. What was unpacked of it has no digest
// and needs none: a layer counts as unpacked only after it was synced, see the differ of
// package containerd, and what was being unpacked at the end is dropped at the start.
func (s Store) Recheck(ctx context.Context, dir *Directory) error {
	if !Unchecked(s.Layout) {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(recheckDelay):
	}
	return s.recheck(ctx, dir)
}

func (s Store) recheck(ctx context.Context, dir *Directory) (err error) {
	log := lifecycle.Logger(ctx)
	log.Info("checking images after an unclean end")
	atLowestPriority(func() { err = s.checkAll(ctx, dir) })
	if err != nil {
		return err
	}
	if err := os.Remove(s.Layout.ImagesUnchecked()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("checking images: %w", err)
	}
	log.Info("images checked")
	return nil
}

func (s Store) checkAll(ctx context.Context, dir *Directory) error {
	client, err := s.connect()
	if err != nil {
		return err
	}
	defer client.Close()
	within := namespaces.WithNamespace(ctx, Namespace)
	if err := collectGarbage(within, client); err != nil {
		return err
	}
	lost, err := s.dropDamaged(within, client)
	if err != nil || len(lost) == 0 {
		return err
	}
	dir.ImportAgain(ctx)
	return s.pullAgain(within, client, lost)
}

// collectGarbage frees what no lease holds any more after an unclean end: containerd by
// itself would wait for a hundred changes. Its only request for this is a synchronous
// delete.
func collectGarbage(ctx context.Context, client *containerd.Client) error {
	lease, err := client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithExpiration(time.Minute))
	if err == nil {
		err = client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete)
	}
	if err != nil {
		return fmt.Errorf("freeing what an unclean end left: %w", err)
	}
	return nil
}

// dropDamaged drops all damaged images and returns them.
func (s Store) dropDamaged(ctx context.Context, client *containerd.Client) ([]coreimages.Image, error) {
	content := blobsOf(client, s.Layout)
	damaged, err := content.damaged(ctx)
	if err != nil || len(damaged) == 0 {
		return nil, err
	}
	return content.drop(ctx, client, damaged)
}

// pullAgain pulls the dropped images that no archive has brought back. The kubelet would
// pull them when a pod needs them, but by then the network may be down again. Images that
// need a pod's own credentials are left to the kubelet.
func (s Store) pullAgain(ctx context.Context, client *containerd.Client, lost []coreimages.Image) error {
	done := map[digest.Digest]bool{}
	for _, image := range lost {
		if strings.Contains(image.Name, "sha256:") || done[image.Target.Digest] {
			continue
		}
		if _, err := client.GetImage(ctx, image.Name); err == nil {
			continue
		}
		done[image.Target.Digest] = true
		if err := pull(ctx, s.Layout.ContainerdSocket(), image.Name); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			lifecycle.Logger(ctx).Warn("a dropped image could not be pulled: it is pulled when a pod needs it, or import it again",
				"image", image.Name, "error", err)
		}
	}
	return nil
}
