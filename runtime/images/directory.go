package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"brink/internal/lifecycle"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// archiveSuffixes are those of OCI and docker archives. How they are compressed is
// recognized by content. Some cannot be read: they are here so that an error says so.
var archiveSuffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2"}

// ImportDir imports the archives in dir that are new or have changed since the last
// import. Archives are large, and reading all of them at each start would take minutes on
// a board, so the file Layout.ImportedImages records what was imported.
//
// The images are pinned, because the archive may be their only source. When an archive
// was removed from dir, its images are unpinned. A missing directory is like an empty one.
// A damaged archive is logged and skipped: the node is worth more than one image. When ctx
// ends, the import ends with its error, and the next one continues where it was.
func (s Store) ImportDir(ctx context.Context, dir string) error {
	paths, err := archivesIn(dir)
	if err != nil {
		return err
	}
	snapshotter := sync.OnceValue(func() string { return Snapshotter(ctx, s.Layout) })
	d := dirImport{Store: s, snapshotter: snapshotter, record: readRecord(s.Layout.ImportedImages())}
	if len(paths) == 0 && len(d.record.stamps) == 0 {
		return nil
	}
	if d.client, err = s.connect(); err != nil {
		return err
	}
	defer d.client.Close()
	ctx = namespaces.WithNamespace(ctx, Namespace)
	d.releaseRemoved(ctx, paths)
	for i, path := range paths {
		if err := d.importIfNew(ctx, path, i+1, len(paths)); err != nil && ctx.Err() == nil {
			lifecycle.Logger(ctx).Error("image archive not imported", "archive", path, "error", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.save(ctx)
	}
	return nil
}

// dirImport is one pass over a directory of archives.
type dirImport struct {
	Store
	snapshotter func() string // asked for once, when there is something to import
	client      *containerd.Client
	record      *record
}

// save writes the record. It is called after each archive, so that a power cut in a long
// first start costs one import. Without a record archives are read again, nothing worse.
func (d dirImport) save(ctx context.Context) {
	if err := d.record.write(); err != nil {
		lifecycle.Logger(ctx).Warn("the next start will import image archives again", "error", err)
	}
}

// importIfNew imports an archive, which is number of total, unless the record says that
// it was imported. On error the record stays as it was.
func (d dirImport) importIfNew(ctx context.Context, path string, number, total int) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	last := d.record.stamps[path]
	now := stamp{Size: info.Size(), Modified: info.ModTime().UTC()}
	if last.Size == now.Size && last.Modified.Equal(now.Modified) {
		there, err := d.keepPinned(ctx, last.Images)
		if err != nil {
			return err
		}
		if there || len(last.Images) == 0 && last.Unusable != "" {
			last.warn(ctx, path)
			return nil
		}
	}
	lifecycle.Logger(ctx).Info("importing an image archive", "archive", path, "progress", fmt.Sprintf("%d of %d", number, total))
	if err := d.importInto(ctx, path, &now); err != nil {
		return err
	}
	d.record.stamps[path] = now
	return d.release(ctx, last.Images)
}

// importInto imports an archive and completes its stamp. What no pod here can use is
// logged, now and at each start, but not read again.
func (d dirImport) importInto(ctx context.Context, path string, now *stamp) (err error) {
	now.Images, err = importFile(ctx, d.client, d.snapshotter(), path)
	var unusable *unusableError
	if errors.As(err, &unusable) {
		now.Unusable = unusable.text()
		now.warn(ctx, path)
	} else if err != nil {
		return err
	}
	if len(now.Images) == 0 {
		return nil
	}
	// Images are pinned only when all went well: garbage collection must be able to free
	// what a full disk has cut short.
	if _, err := d.keepPinned(ctx, now.Images); err != nil {
		return err
	}
	lifecycle.Logger(ctx).Info("image archive imported", "archive", path, "images", names(now.Images))
	return nil
}

// warn logs what no pod of this node can use.
func (s stamp) warn(ctx context.Context, path string) {
	if s.Unusable != "" {
		lifecycle.Logger(ctx).Warn("an image archive holds what pods of this node cannot use", "archive", path, "error", s.Unusable)
	}
}

// keepPinned reports whether all images are still there: somebody may have removed one.
// It restores their names and their protection, which an import under the same name takes
// away, and which an older brink did not give.
func (d dirImport) keepPinned(ctx context.Context, images []Image) (bool, error) {
	for _, i := range images {
		image, err := d.client.GetImage(ctx, i.Name)
		if err == nil && image.Target().Digest.String() == i.Digest {
			err = recordImage(ctx, d.client, i.Name, image.Target())
		}
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err == nil && image.Labels()[pinnedLabel] != pinnedValue {
			err = setPinned(ctx, d.client, i.Name, true)
		}
		if err != nil {
			return false, err
		}
	}
	return len(images) > 0, nil
}

// releaseRemoved unpins the images of archives that are no longer in the directory.
// Those that cannot be unpinned stay in the record for the next start.
func (d dirImport) releaseRemoved(ctx context.Context, paths []string) {
	for path, last := range d.record.stamps {
		if slices.Contains(paths, path) {
			continue
		}
		delete(d.record.stamps, path)
		if err := d.release(ctx, last.Images); err != nil {
			d.record.stamps[path] = last
			lifecycle.Logger(ctx).Warn("images of a removed archive stay protected from garbage collection", "archive", path, "error", err)
		}
	}
	d.save(ctx)
}

// release unpins the images that are in no archive of the record.
func (d dirImport) release(ctx context.Context, images []Image) error {
	var errs []error
	for _, i := range images {
		if d.record.names(i.Name) {
			continue
		}
		if err := setPinned(ctx, d.client, i.Name, false); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// setPinned changes only this label: others may keep labels of their own there.
func setPinned(ctx context.Context, client *containerd.Client, name string, on bool) error {
	value := "" // deletes it
	if on {
		value = pinnedValue
	}
	change := coreimages.Image{Name: name, Labels: map[string]string{pinnedLabel: value}}
	if _, err := client.ImageService().Update(ctx, change, "labels."+pinnedLabel); err != nil {
		return fmt.Errorf("changing the protection of image %s from garbage collection: %w", name, err)
	}
	return nil
}

// names returns the names of images in one line.
func names(images []Image) string {
	var out []string
	for _, i := range images {
		out = append(out, i.Name)
	}
	return strings.Join(out, " ")
}

// archivesIn returns the archives in a directory, by their suffix, sorted.
func archivesIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		for _, suffix := range archiveSuffixes {
			if strings.HasSuffix(e.Name(), suffix) && !e.IsDir() {
				out = append(out, filepath.Join(dir, e.Name()))
				break
			}
		}
	}
	sort.Strings(out)
	return out, nil
}
