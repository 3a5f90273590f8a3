package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"

	"brink/internal/atomicfile"
)

const (
	// inUseFile exists in containerd's root while it runs. Found at a start, it says
	// that the last run was not ended in order.
	inUseFile = "in-use"
	// uncheckedFile exists from such a start on until all images were looked at,
	// however often brink is started until then.
	uncheckedFile = "images-unchecked"
)

// markInUse is called before anything is opened in root, markClosed after all was
// closed in order.
func markInUse(root string) error {
	if err := os.MkdirAll(root, 0o711); err != nil {
		return fmt.Errorf("preparing containerd's directories: %w", err)
	}
	marks := []string{inUseFile}
	if exists(filepath.Join(root, inUseFile)) {
		marks = append(marks, uncheckedFile)
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

func unchecked(root string) bool { return exists(filepath.Join(root, uncheckedFile)) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// expiryLabel is that of leases which one request holds while it works, such as an
// import or a pull.
const expiryLabel = "containerd.io/gc.expire"

// dropLeases ends what requests of a process that is no more hold: the layers that
// they had unpacked in part would stay for a day, and on a small card a few power
// cuts in the middle of a large import would fill it. Leases of pods stay, and those
// of who was quick enough to ask since this process started. A board without a clock
// of its own may find its past in the future.
func dropLeases(ctx context.Context, client *containerd.Client, started time.Time) error {
	store := client.LeasesService()
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
