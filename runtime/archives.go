package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// archiveSuffixes are those of OCI and docker archives that containerd reads;
// compression is recognised by content.
var archiveSuffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"}

// Archives imports image archives into containerd, so that a node without a
// network has images.
type Archives struct {
	// Socket is containerd's.
	Socket string
	// Root is containerd's root directory, see Config.
	Root string
}

// Image is one imported image.
type Image struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Import reads one archive and returns the images in it, ready to run. They are
// not pinned: the kubelet collects what somebody once brought by hand when the
// disk fills. Images that are pinned for an archive in the directory stay so.
func (a Archives) Import(ctx context.Context, path string) ([]Image, error) {
	client, err := a.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, criNamespace)
	imported, err := a.importFile(ctx, client, path, managed)
	if err != nil {
		return imported, err
	}
	kept := readRecord(a.recordFile())
	for _, i := range imported {
		if kept.names(i.Name) {
			err = errors.Join(err, setPinned(ctx, client, i.Name, true))
		}
	}
	return imported, err
}

// connect fails when nobody listens; the client alone would wait for somebody.
func (a Archives) connect() (*containerd.Client, error) {
	conn, err := net.Dial("unix", a.Socket)
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	conn.Close()
	client, err := containerd.New(a.Socket, containerd.WithDefaultNamespace(criNamespace))
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	return client, nil
}

func (a Archives) importFile(ctx context.Context, client *containerd.Client, path string, labels map[string]string) ([]Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := compression.DecompressStream(f)
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", path, err)
	}
	defer content.Close()
	imported, err := client.Import(ctx, content, containerd.WithImageLabels(labels))
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", path, err)
	}
	if len(imported) == 0 {
		return nil, fmt.Errorf("importing %s: it holds no image with a name; save it with one (name:tag)", path)
	}
	snapshotter := chooseSnapshotter(a.Root)
	var out []Image
	for _, i := range imported {
		if err := containerd.NewImage(client, i).Unpack(ctx, snapshotter); err != nil {
			return out, fmt.Errorf("unpacking %s from %s: %w", i.Name, path, err)
		}
		out = append(out, Image{Name: i.Name, Digest: i.Target.Digest.String()})
	}
	return out, nil
}

// ImportDir imports the archives in dir that are new or changed since the last
// time, by the record beside containerd's root: archives are large, and reading
// them at each start would cost minutes on a board. Their images are pinned,
// because where the archive is the only source the kubelet must not collect them;
// those of an archive that is gone from dir are pinned no longer. A missing
// directory is an empty one. A damaged archive is logged and passed over: the
// node is worth more than one image. When ctx ends so does the import, and its
// error is returned; the next one goes on where this one was.
func (a Archives) ImportDir(ctx context.Context, dir string) error {
	paths, err := archivesIn(dir)
	if err != nil {
		return err
	}
	d := dirImport{Archives: a, record: readRecord(a.recordFile())}
	if len(paths) == 0 && len(d.record.stamps) == 0 {
		return nil
	}
	if d.client, err = a.connect(); err != nil {
		return err
	}
	defer d.client.Close()
	ctx = namespaces.WithNamespace(ctx, criNamespace)
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
	Archives
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
		if there, err := d.keepPinned(ctx, last.Images); there || err != nil {
			return err
		}
	}
	slog.Info("importing an image archive", "component", "images", "archive", path, "progress", fmt.Sprintf("%d of %d", number, total))
	// Pinned when all is well: what a full disk has cut short must not be kept
	// from the garbage collection that would free it.
	if now.Images, err = d.importFile(ctx, d.client, path, managed); err != nil {
		return err
	}
	if _, err := d.keepPinned(ctx, now.Images); err != nil {
		return err
	}
	slog.Info("image archive imported", "component", "images", "archive", path, "images", names(now.Images))
	d.record.stamps[path] = now
	return d.release(ctx, last.Images)
}

// keepPinned tells whether all images are still there: somebody may have
// removed one. It pins again those that somebody unpinned, such as by an import
// under the same name.
func (d dirImport) keepPinned(ctx context.Context, images []Image) (bool, error) {
	for _, i := range images {
		image, err := d.client.GetImage(ctx, i.Name)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err == nil && image.Labels()[pinnedLabel] != pinned[pinnedLabel] {
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
		value = pinned[pinnedLabel]
	}
	change := images.Image{Name: name, Labels: map[string]string{pinnedLabel: value}}
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
