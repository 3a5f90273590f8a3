package images

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"brink/internal/lifecycle"

	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// unknownRatio is how much larger than itself compressed data is taken to be where it
// does not say so: what layers of programs come to.
const unknownRatio = 3

// estimate is how many bytes something needs on the disk.
type estimate struct {
	known   int64 // certainly
	guessed int64 // beside that, by what is usual
}

func (e *estimate) add(size int64, known bool) {
	if known {
		e.known += size
	} else {
		e.guessed += size
	}
}

// unpackedSize returns how large a file becomes when it is decompressed: by what gzip and
// zstd write into it, else by a guess, and whether it is known. It reads a few bytes.
func unpackedSize(r io.ReaderAt, size int64) (unpacked int64, isKnown bool) {
	start := make([]byte, zstd.HeaderMaxSize)
	n, _ := r.ReadAt(start, 0)
	start = start[:n]
	f := formatOf(start)
	if f == nil {
		return size, true
	}
	known := int64(0)
	switch f.name {
	case "gzip":
		known = gzipSize(r, size)
	case "zstd":
		known = zstdSize(start)
	}
	// Data does not become much smaller, so less is the size of one member or frame of many.
	// Layers that can be read lazily have one for each file, and may end with an empty one.
	if known < size-size/10 || known == 0 {
		return unknownRatio * size, false
	}
	return known, true
}

// gzipSize reads the length in the last four bytes, which is given modulo 4 GiB and is that
// of the last member.
func gzipSize(r io.ReaderAt, size int64) int64 {
	var last [4]byte
	if _, err := r.ReadAt(last[:], max(0, size-4)); err != nil && err != io.EOF {
		return 0
	}
	return int64(binary.LittleEndian.Uint32(last[:]))
}

func zstdSize(start []byte) int64 {
	var h zstd.Header
	if err := h.Decode(start); err != nil || !h.HasFCS {
		return 0
	}
	return int64(h.FrameContentSize)
}

// hasRoomToUnpack returns an error if the disk cannot take the layers of images that are
// not unpacked yet.
func (i *importer) hasRoomToUnpack(ctx context.Context, found []ocispec.Descriptor) error {
	need, seen := estimate{}, map[digest.Digest]bool{}
	for _, target := range found {
		manifest, err := coreimages.Manifest(ctx, i.client.ContentStore(), target, platforms.Default())
		if err != nil {
			continue // for another platform, or not whole: it is not unpacked
		}
		for _, layer := range manifest.Layers {
			if !seen[layer.Digest] {
				seen[layer.Digest] = true
				need.add(i.layerSize(ctx, layer))
			}
		}
	}
	return needSpace(ctx, i.root, need)
}

// layerSize returns how large a layer becomes and whether that is known, 0 for one that was
// unpacked before: then containerd has noted the digest of its content.
func (i *importer) layerSize(ctx context.Context, layer ocispec.Descriptor) (int64, bool) {
	store := i.client.ContentStore()
	info, err := store.Info(ctx, layer.Digest)
	if err != nil || info.Labels[labels.LabelUncompressed] != "" {
		return 0, true
	}
	r, err := store.ReaderAt(ctx, layer)
	if err != nil {
		return 0, true
	}
	defer r.Close()
	return unpackedSize(r, r.Size())
}

// reserve is which part of the file system stays free: below it the kubelet evicts pods
// (its flag eviction-hard, as brink sets it).
const reserve = 20

// freeSpace returns how much can be written below dir until the kubelet minds.
func freeSpace(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	block := int64(s.Bsize)
	return int64(s.Bavail)*block - int64(s.Blocks)*block/reserve, nil
}

// noRoomError says that an import was not begun, or went back, because the disk is too
// small.
type noRoomError struct {
	dir        string
	need, have int64
}

func (e *noRoomError) Error() string {
	return fmt.Sprintf("it needs %s more in %s, where %s can be used before the kubelet evicts pods: free some space, or put the data on a larger disk",
		inBytes(e.need), e.dir, inBytes(max(e.have, 0)))
}

// needSpace returns a noRoomError when dir cannot take what is known to be needed. What is
// guessed only warns: an import that fills the disk goes back.
func needSpace(ctx context.Context, dir string, need estimate) error {
	have, err := freeSpace(dir)
	switch all := need.known + need.guessed; {
	case err != nil:
		return err
	case need.known > max(have, 0):
		return &noRoomError{dir, need.known, have}
	case all > max(have, 0):
		lifecycle.Logger(ctx).Warn("the disk may be too small for an image archive", "needs about", inBytes(all), "in", dir, "free", inBytes(max(have, 0)))
	}
	return nil
}

// inBytes writes a size as people read it.
func inBytes(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
