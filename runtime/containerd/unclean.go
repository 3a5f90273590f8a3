package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/runtime/images"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

// markInUse is called before anything is opened in containerd's root, markClosed after
// all was closed in order.
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

// markClosed need not be synced: a mark that comes back costs one check of images.
func markClosed(l layout.Layout) {
	if err := os.Remove(l.ContainerdInUse()); err != nil {
		slog.Warn("the next start will check all images", "component", "containerd", "error", err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// afterUncleanEnd drops what was not brought to its end, and a sandbox image that
// is damaged: without it there is no pod. Other images are looked at later.
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
	if err != nil {
		return err
	}
	return images.DropDamaged(ctx, api, c.Layout, image.Target)
}

// expiryLabel is that of leases which one request holds while it works, such as an
// import or a pull.
const expiryLabel = "containerd.io/gc.expire"

// dropLeases ends what requests of a process that is no more hold: the layers that
// they had unpacked in part would stay for a day, and on a small card a few power
// cuts in the middle of a large import would fill it. Leases of pods stay, and those
// of who was quick enough to ask since this process started. A board without a clock
// of its own may find its past in the future.
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
