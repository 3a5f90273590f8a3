package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// archiveSuffixes are those of OCI and docker archives; compression is recognised
// by content. Those that are not read are there to be told so.
var archiveSuffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".tar.xz", ".txz", ".tar.bz2", ".tbz2"}

// ImportDir imports the archives in dir that are new or changed since the last
// time, by the record beside containerd's root: archives are large, and reading
// them at each start would cost minutes on a board. Their images are pinned,
// because where the archive is the only source the kubelet must not collect them;
// those of an archive that is gone from dir are pinned no longer. A missing
// directory is an empty one. A damaged archive is logged and passed over: the
// node is worth more than one image. When ctx ends so does the import, and its
// error is returned; the next one goes on where this one was.
func (s Store) ImportDir(ctx context.Context, dir string) error {
	paths, err := archivesIn(dir)
	if err != nil {
		return err
	}
	d := dirImport{Store: s, record: readRecord(s.Layout.ImportedImages())}
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
			slog.Error("image archive not imported", "component", "images", "archive", path, "error", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.save()
	}
	return nil
}

// dirImport is one pass over a directory of archives.
type dirImport struct {
	Store
	client *containerd.Client
	record *record
}

// save writes the record after each archive, so that a power cut in a long first
// start costs one import. Without it archives are read again, nothing worse.
func (d dirImport) save() {
	if err := d.record.write(); err != nil {
		slog.Warn("the next start will import image archives again", "component", "images", "error", err)
	}
}

// importIfNew brings the record up to date with one archive, the number-th of
// total. On error the record is as before.
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
			last.tell(path)
			return nil
		}
	}
	slog.Info("importing an image archive", "component", "images", "archive", path, "progress", fmt.Sprintf("%d of %d", number, total))
	if err := d.importInto(ctx, path, &now); err != nil {
		return err
	}
	d.record.stamps[path] = now
	return d.release(ctx, last.Images)
}

// importInto imports an archive and completes its stamp. What is of no use here is
// told, now and at each start, but not read again.
func (d dirImport) importInto(ctx context.Context, path string, now *stamp) (err error) {
	now.Images, err = d.importFile(ctx, d.client, path)
	var unusable *unusableError
	if errors.As(err, &unusable) {
		now.Unusable = unusable.text()
		now.tell(path)
	} else if err != nil {
		return err
	}
	if len(now.Images) == 0 {
		return nil
	}
	// Pinned when all is well: what a full disk has cut short must not be kept
	// from the garbage collection that would free it.
	if _, err := d.keepPinned(ctx, now.Images); err != nil {
		return err
	}
	slog.Info("image archive imported", "component", "images", "archive", path, "images", names(now.Images))
	return nil
}

// tell logs what is of no use.
func (s stamp) tell(path string) {
	if s.Unusable != "" {
		slog.Warn("an image archive holds what pods of this node cannot use", "component", "images", "archive", path, "error", s.Unusable)
	}
}

// keepPinned tells whether all images are still there: somebody may have
// removed one. It gives back the names and the protection that somebody took away,
// such as by an import under the same name, or that an older brink did not give.
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

// releaseRemoved unpins the images of archives that are no longer in the
// directory. What cannot be unpinned stays in the record for the next start.
func (d dirImport) releaseRemoved(ctx context.Context, paths []string) {
	for path, last := range d.record.stamps {
		if slices.Contains(paths, path) {
			continue
		}
		delete(d.record.stamps, path)
		if err := d.release(ctx, last.Images); err != nil {
			d.record.stamps[path] = last
			slog.Warn("images of a removed archive stay protected from garbage collection", "component", "images", "archive", path, "error", err)
		}
	}
	d.save()
}

// release unpins those of images that no archive of the record holds.
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

// setPinned changes nothing but this label, for others may keep theirs there.
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

func names(images []Image) string {
	var out []string
	for _, i := range images {
		out = append(out, i.Name)
	}
	return strings.Join(out, " ")
}

// archivesIn lists archive files, sorted; other files are not archives.
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
