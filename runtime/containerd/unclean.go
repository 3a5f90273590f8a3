package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"brink/internal/atomicfile"
	"brink/runtime/images"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
)

const (
	// inUseFile exists in containerd's root while it runs. Found at a start, it says
	// that the last run was not ended in order.
	inUseFile = "in-use"
)

// markInUse is called before anything is opened in root, markClosed after all was
// closed in order.
func markInUse(root string) error {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return fmt.Errorf("preparing containerd's directories: %w", err)
	}
	marks := []string{inUseFile}
	if exists(filepath.Join(root, inUseFile)) {
		marks = append(marks, images.UncheckedFile)
	}
	for _, mark := range marks {
		if err := atomicfile.Keep(filepath.Join(root, mark), nil, 0o600); err != nil {
			return fmt.Errorf("preparing containerd's directories: %w", err)
		}
	}
	return nil
}

// markClosed need not be synced: a mark that comes back costs one look at images.
func markClosed(root string) {
	if err := os.Remove(filepath.Join(root, inUseFile)); err != nil {
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
	if !images.Unchecked(c.Root) {
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
	return images.DropDamaged(ctx, api, c.Root, image.Target)
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
