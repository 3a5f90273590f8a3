package images

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
)

// byHandLabel marks an image that somebody pinned by a command. It stays so when an
// archive that holds the image too is taken away.
const byHandLabel = "brink.io/pinned-by-hand"

// setPinned changes only this label: others may keep labels of their own there.
func setPinned(ctx context.Context, client *containerd.Client, name string, on bool) error {
	value := "" // deletes it
	if on {
		value = pinnedValue
	}
	return setLabel(ctx, client, name, pinnedLabel, value)
}

func setLabel(ctx context.Context, client *containerd.Client, name, label, value string) error {
	change := coreimages.Image{Name: name, Labels: map[string]string{label: value}}
	if _, err := client.ImageService().Update(ctx, change, "labels."+label); err != nil {
		return fmt.Errorf("changing the protection of image %s from garbage collection: %w", name, err)
	}
	return nil
}

// pinByHand pins an image for whoever imported it, or takes that back. What the directory
// holds stays pinned.
func (s Store) pinByHand(ctx context.Context, client *containerd.Client, name string, on bool) error {
	if on {
		if err := setLabel(ctx, client, name, byHandLabel, "true"); err != nil {
			return err
		}
		return setPinned(ctx, client, name, true)
	}
	image, err := client.ImageService().Get(ctx, name)
	if err != nil || image.Labels[byHandLabel] == "" {
		return err
	}
	if err := setLabel(ctx, client, name, byHandLabel, ""); err != nil {
		return err
	}
	if readRecord(s.Layout.ImportedImages()).names(name) {
		return nil
	}
	return setPinned(ctx, client, name, false)
}

// unpin takes the protection of an image away, unless somebody gave it by hand.
func unpin(ctx context.Context, client *containerd.Client, name string) error {
	image, err := client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the protection of image %s: %w", name, err)
	}
	if image.Labels[byHandLabel] != "" || image.Labels[pinnedLabel] == "" {
		return nil
	}
	if err := setPinned(ctx, client, name, false); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
