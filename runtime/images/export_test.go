package images

import (
	"context"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/opencontainers/go-digest"
)

// What the tests with a running node look at; these are in package images_test, as the
// node imports this one.

// RecordFile is where the record of a directory of archives is.
func (s Store) RecordFile() string { return s.recordFile() }

// Stamps are what the record says.
func (s Store) Stamps() map[string]stamp { return readRecord(s.recordFile()).stamps }

// RecheckNow is Recheck without its delay.
func (s Store) RecheckNow(ctx context.Context, dir string) error { return s.recheck(ctx, dir) }

// NamesOf joins the names of images.
func NamesOf(all []Image) string { return names(all) }

// BlobPath is the file of a blob.
func BlobPath(client *containerd.Client, root string, d digest.Digest) string {
	return blobsOf(client, root).path(d)
}

// DamagedBlobs are those of all blobs that are damaged.
func DamagedBlobs(ctx context.Context, client *containerd.Client, root string) ([]digest.Digest, error) {
	return blobsOf(client, root).damaged(ctx)
}

// ManagedLabels are those of an image of the CRI's that may be collected.
func ManagedLabels() map[string]string { return map[string]string{managedLabel: managedValue} }
