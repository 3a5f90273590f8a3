package images

import (
	"context"

	"brink/internal/layout"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/opencontainers/go-digest"
)

// What the tests with a running node look at; these are in package images_test, as the
// node imports this one.

// Stamps are what the record says.
func (s Store) Stamps() map[string]stamp { return readRecord(s.Layout.ImportedImages()).stamps }

// Once is what a start does with a directory. It ends when all that is there was taken, or
// has failed.
func (d *Directory) Once(ctx context.Context) {
	d.record = readRecord(d.store.Layout.ImportedImages())
	d.look(ctx)
	there := d.look(ctx) // nothing has changed since: all is whole
	d.takeArchives(ctx, there, true)
	if pulled := d.startPulls(ctx, d.takeLists(ctx, there, true, nil)); pulled != nil {
		d.takeLists(ctx, there, true, <-pulled)
	}
}

// RecheckNow is Recheck without its delay.
func (s Store) RecheckNow(ctx context.Context, dir *Directory) error { return s.recheck(ctx, dir) }

// NamesOf joins the names of images.
func NamesOf(all []Image) string { return names(all) }

// BlobPath is the file of a blob.
func BlobPath(client *containerd.Client, l layout.Layout, d digest.Digest) string {
	return blobsOf(client, l).path(d)
}

// DamagedBlobs are those of all blobs that are damaged.
func DamagedBlobs(ctx context.Context, client *containerd.Client, l layout.Layout) ([]digest.Digest, error) {
	return blobsOf(client, l).damaged(ctx)
}

// ManagedLabels are those of an image of the CRI's that may be collected.
func ManagedLabels() map[string]string { return map[string]string{managedLabel: managedValue} }

// FreeSpace is what an import may use.
func FreeSpace(dir string) int64 {
	free, _ := freeSpace(dir)
	return free
}
