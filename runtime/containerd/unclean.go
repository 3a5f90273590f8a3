package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/runtime/images"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

// markInUse writes a mark that containerd's root is in use. It is called before anything
// in the root is opened, and markClosed after everything was closed in order. A mark that
// is there already shows that the last run did not end so: then a second mark asks for a
// check of all images.
func markInUse(l layout.Layout) error {
	if err := os.MkdirAll(l.ContainerdRoot(), 0o711); err != nil {
		return fmt.Errorf("preparing containerd's directories: %w", err)
	}
	marks := []string{l.ContainerdInUse()}
	if exists(l.ContainerdInUse()) {
		marks = append(marks, l.ImagesUnchecked())
	}
	for _, mark := range marks {
		if err := atomicfile.Keep(mark, nil, 0o600); err != nil {
			return fmt.Errorf("preparing containerd's directories: %w", err)
		}
	}
	return nil
}

// markClosed removes the mark of markInUse. The removal need not be synced: a mark that
// comes back costs one check of images.
func markClosed(ctx context.Context, l layout.Layout) {
	if err := os.Remove(l.ContainerdInUse()); err != nil {
		lifecycle.Logger(ctx).Warn("the next start will check all images", "error", err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// afterUncleanEnd does nothing unless the last run ended without closing everything. It
// drops what was left unfinished, and the sandbox image if that is damaged: without it no
// pod starts. Other images are checked later, by images.Store.Recheck.
func (c Config) afterUncleanEnd(ctx context.Context, api *client.Client, started time.Time) error {
	if !images.Unchecked(c.Layout) {
		return nil
	}
	if err := dropLeases(ctx, api, started); err != nil {
		return err
	}
	image, err := api.ImageService().Get(ctx, c.PauseImage)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = images.DropDamaged(ctx, api, c.Layout, image.Target)
	}
	if err != nil {
		return fmt.Errorf("checking the sandbox image after an unclean end: %w", err)
	}
	return nil
}

// expiryLabel is the label of a lease that one request holds while it works, such as an
// import or a pull.
const expiryLabel = "containerd.io/gc.expire"

// dropLeases ends the leases that requests to an earlier process held. Layers that they
// had unpacked in part would stay for a day, and a few power cuts in the middle of a
// large import would fill a small card. Leases of pods stay, and so do those of requests
// since this process started. On a board without a clock of its own, earlier ones may be
// dated in the future.
func dropLeases(ctx context.Context, api *client.Client, started time.Time) error {
	store := api.LeasesService()
	all, err := store.List(ctx)
	if err != nil {
		return fmt.Errorf("looking for what an unclean end left: %w", err)
	}
	var errs []error
	now := time.Now()
	for _, l := range all {
		_, expires := l.Labels[expiryLabel]
		if expires && (l.CreatedAt.Before(started) || l.CreatedAt.After(now)) {
			errs = append(errs, store.Delete(ctx, leases.Lease{ID: l.ID}))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("dropping what an unclean end left: %w", err)
	}
	return nil
}
