package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/layout"
	"brink/internal/lifecycle"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// blobs reads the content store, which keeps the parts of images, the blobs, in files
// that are named by their digests. The files are read here, because threads of containerd
// would read them at normal priority.
type blobs struct {
	store content.Store
	dir   string
}

func blobsOf(client *containerd.Client, l layout.Layout) blobs {
	return blobs{client.ContentStore(), l.ContainerdBlobs()}
}

func (b blobs) path(d digest.Digest) string {
	return filepath.Join(b.dir, d.Algorithm().String(), d.Encoded())
}

// damaged returns the digests of all blobs that differ from their size or digest.
func (b blobs) damaged(ctx context.Context) ([]digest.Digest, error) {
	var all []content.Info
	err := b.store.Walk(ctx, func(info content.Info) error {
		all = append(all, info)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the content of images: %w", err)
	}
	var out []digest.Digest
	for _, info := range all {
		whole, err := b.isWhole(ctx, info)
		if err != nil {
			return nil, err
		}
		if !whole {
			out = append(out, info.Digest)
		}
	}
	return out, nil
}

// damagedIn is damaged for the blobs that one image needs. A missing blob is not damaged.
func (b blobs) damagedIn(ctx context.Context, target ocispec.Descriptor) ([]digest.Digest, error) {
	var out []digest.Digest
	children := func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		info, err := b.store.Info(ctx, desc.Digest)
		if errdefs.IsNotFound(err) {
			return nil, coreimages.ErrSkipDesc
		}
		if err != nil {
			return nil, err
		}
		whole, err := b.isWhole(ctx, info)
		if err != nil {
			return nil, err
		}
		if !whole {
			out = append(out, desc.Digest)
			return nil, coreimages.ErrSkipDesc
		}
		return coreimages.Children(ctx, b.store, desc)
	}
	err := coreimages.Walk(ctx, coreimages.FilterPlatforms(children, platforms.Default()), target)
	return out, err
}

// isWhole reports whether a blob is what its size and digest say. A blob that the disk
// cannot read, as with a bad block, is damaged. Any other failure to read it, such as too
// many open files while pods start, says nothing about the blob and is an error.
func (b blobs) isWhole(ctx context.Context, info content.Info) (bool, error) {
	same := false
	f, err := os.Open(b.path(info.Digest))
	if err == nil {
		defer f.Close()
		same, err = matches(ctx, f, info)
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if errors.Is(err, fs.ErrNotExist) {
		// It is damaged, unless it was collected a moment ago.
		_, err := b.store.Info(ctx, info.Digest)
		return errdefs.IsNotFound(err), nil
	}
	if err != nil && !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EBADMSG) && !errors.Is(err, unix.EUCLEAN) {
		return false, err
	}
	return same && err == nil, nil
}

// chunk is how much is read before the context is checked again. What was read is
// dropped from the page cache, because others need that memory.
const chunk = 1 << 20

// matches reports whether a file has the size and the digest of info.
func matches(ctx context.Context, f *os.File, info content.Info) (bool, error) {
	stat, err := f.Stat()
	if err != nil || stat.Size() != info.Size {
		return false, err
	}
	verifier := info.Digest.Verifier()
	for offset := int64(0); ctx.Err() == nil; offset += chunk {
		n, err := io.CopyN(verifier, f, chunk)
		_ = unix.Fadvise(int(f.Fd()), offset, n, unix.FADV_DONTNEED)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, err
		}
	}
	return verifier.Verified(), ctx.Err()
}

// imagesWith returns the images that need one of the damaged blobs: all their names, by
// the image's digest.
func imagesWith(ctx context.Context, client *containerd.Client, damaged []digest.Digest) (map[digest.Digest][]coreimages.Image, error) {
	bad := map[digest.Digest]bool{}
	for _, d := range damaged {
		bad[d] = true
	}
	all, err := client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	out := map[digest.Digest][]coreimages.Image{}
	for _, image := range all {
		if needs(ctx, client.ContentStore(), image.Target, bad) {
			out[image.Target.Digest] = append(out[image.Target.Digest], image)
		}
	}
	return out, nil
}

// needs reports whether the part of an image that runs on this node has a bad blob.
func needs(ctx context.Context, store content.Store, target ocispec.Descriptor, bad map[digest.Digest]bool) bool {
	found := false
	children := func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if bad[desc.Digest] {
			found = true
			return nil, coreimages.ErrSkipDesc // there is nothing to read
		}
		out, err := coreimages.Children(ctx, store, desc)
		if errdefs.IsNotFound(err) {
			return nil, coreimages.ErrSkipDesc
		}
		return out, err
	}
	err := coreimages.Walk(ctx, coreimages.FilterPlatforms(children, platforms.Default()), target)
	return found && err == nil
}

// DropDamaged drops the image target if it is damaged, and every other image that has the
// same damaged blob.
func DropDamaged(ctx context.Context, client *containerd.Client, l layout.Layout, target ocispec.Descriptor) error {
	b := blobsOf(client, l)
	damaged, err := b.damagedIn(ctx, target)
	if err != nil || len(damaged) == 0 {
		return err
	}
	_, err = b.drop(ctx, client, damaged)
	return err
}

// drop removes the images that need one of the damaged blobs, and returns them. Names go
// first, so that nobody starts to use what is going, then the blobs: an import or a pull
// would take a blob that is there for a good one.
func (b blobs) drop(ctx context.Context, client *containerd.Client, damaged []digest.Digest) ([]coreimages.Image, error) {
	hit, err := imagesWith(ctx, client, damaged)
	if err != nil {
		return nil, err
	}
	var lost []coreimages.Image
	for target, names := range hit {
		for _, image := range names {
			if err := client.ImageService().Delete(ctx, image.Name); err != nil && !errdefs.IsNotFound(err) {
				return nil, fmt.Errorf("dropping image %s: %w", image.Name, err)
			}
		}
		lost = append(lost, names...)
		lifecycle.Logger(ctx).Warn("an image was damaged and is dropped: it is imported or pulled again",
			"image", knownName(names), "digest", target)
	}
	for _, d := range damaged {
		if err := b.store.Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
			return nil, fmt.Errorf("dropping content %s: %w", d, err)
		}
		if err := os.Remove(b.path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("dropping content %s: %w", d, err)
		}
	}
	return lost, nil
}

// knownName returns the name that people know: not the one by digest, and not the id.
func knownName(all []coreimages.Image) string {
	for _, i := range all {
		if !strings.Contains(i.Name, "sha256:") {
			return i.Name
		}
	}
	return all[0].Name
}
