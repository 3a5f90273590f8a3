package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"brink/internal/atomicfile"
)

// bundleContent is what earlier bundles have.
type bundleContent struct {
	blobs  map[digest.Digest]bool
	images map[string]digest.Digest // by name
}

// readBundles reads which images and blobs bundles have. Of a plain one it reads the
// headers alone.
func readBundles(ctx context.Context, paths []string) (bundleContent, error) {
	known := bundleContent{map[digest.Digest]bool{}, map[string]digest.Digest{}}
	for _, path := range paths {
		if err := known.add(ctx, path); err != nil {
			return known, fmt.Errorf("reading the bundle %s: %w", path, err)
		}
	}
	return known, nil
}

func (k bundleContent) add(ctx context.Context, file string) error {
	f, err := openFile(file)
	if err != nil {
		return err
	}
	defer f.Close()
	start := make([]byte, maxMagic)
	_, _ = f.ReadAt(start, 0)
	stream := io.Reader(f)
	if formatOf(start) != nil {
		unpacked, err := decompress(f, maxWindow())
		if err != nil {
			return err
		}
		defer unpacked.Close()
		stream = unpacked
	}
	found := false
	for r := tar.NewReader(stream); ctx.Err() == nil; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if d, ok := blobDigest(name); ok {
			k.blobs[d] = true
		} else if name == ocispec.ImageIndexFile {
			found = true
			if err := k.addIndex(r); err != nil {
				return err
			}
		}
	}
	if !found && ctx.Err() == nil {
		return errors.New("it is no OCI layout, such as `brink images bundle` writes")
	}
	return ctx.Err()
}

func (k bundleContent) addIndex(r io.Reader) error {
	var index ocispec.Index
	if err := json.NewDecoder(io.LimitReader(r, 20<<20)).Decode(&index); err != nil {
		return fmt.Errorf("its %s: %w", ocispec.ImageIndexFile, err)
	}
	for _, m := range index.Manifests {
		if name := givenName(m.Annotations); name != "" {
			k.images[name] = m.Digest
		}
	}
	return nil
}

// bundleWriter writes an OCI layout. The same images give the same bytes: entries have an
// order and no times.
type bundleWriter struct {
	parts  []part
	blobs  []ocispec.Descriptor // sorted
	size   int64
	shared int64
}

// newBundleWriter leaves out what is known: blobs, and images under a name that they have
// already.
func newBundleWriter(parts []part, known bundleContent) *bundleWriter {
	w := &bundleWriter{}
	seen := map[digest.Digest]bool{}
	for _, p := range parts {
		if known.images[p.name] != p.target.Digest {
			w.parts = append(w.parts, p)
		}
		for _, b := range p.blobs {
			switch {
			case seen[b.Digest]:
			case known.blobs[b.Digest]:
				w.shared += b.Size
			default:
				w.blobs = append(w.blobs, b)
				w.size += b.Size
			}
			seen[b.Digest] = true
		}
	}
	slices.SortFunc(w.blobs, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	slices.SortFunc(w.parts, func(a, b part) int { return strings.Compare(a.name, b.name) })
	return w
}

// write writes the file, and gives it its name when it is whole and on the disk. Only its
// owner may read it, as images may be private.
func (w *bundleWriter) write(ctx context.Context, from content.Provider, out string) (Bundled, error) {
	err := atomicfile.WriteWith(out, 0o600, func(f io.Writer) error { return w.writeTo(ctx, from, f) })
	if err != nil {
		return Bundled{}, err
	}
	info, err := os.Stat(out)
	if err != nil {
		return Bundled{}, err
	}
	done := Bundled{Size: info.Size(), Shared: w.shared}
	for _, p := range w.parts {
		done.Images = append(done.Images, Image{Name: p.name, Digest: p.target.Digest.String()})
	}
	return done, nil
}

// writeTo writes what says which images there are first, so that a reader need not go
// through all of it.
func (w *bundleWriter) writeTo(ctx context.Context, from content.Provider, out io.Writer) error {
	t := tar.NewWriter(out)
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: w.manifests()})
	if err != nil {
		return err
	}
	version, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	err = errors.Join(
		writeEntry(t, ocispec.ImageLayoutFile, int64(len(version)), bytes.NewReader(version)),
		writeEntry(t, ocispec.ImageIndexFile, int64(len(index)), bytes.NewReader(index)),
	)
	if err != nil {
		return err
	}
	for _, b := range w.blobs {
		if err := writeBlob(ctx, t, from, b); err != nil {
			return fmt.Errorf("%s: %w", b.Digest, err)
		}
	}
	return t.Close()
}

func (w *bundleWriter) manifests() []ocispec.Descriptor {
	out := []ocispec.Descriptor{}
	for _, p := range w.parts {
		m := ocispec.Descriptor{MediaType: p.target.MediaType, Digest: p.target.Digest, Size: p.target.Size}
		m.Annotations = map[string]string{coreimages.AnnotationImageName: p.name}
		if parsed, err := reference.ParseDockerRef(p.name); err == nil {
			if tagged, ok := parsed.(reference.Tagged); ok {
				m.Annotations[ocispec.AnnotationRefName] = tagged.Tag()
			}
		}
		out = append(out, m)
	}
	return out
}

// writeBlob copies a blob and compares it with its digest.
func writeBlob(ctx context.Context, t *tar.Writer, from content.Provider, b ocispec.Descriptor) error {
	r, err := from.ReaderAt(ctx, b)
	if err != nil {
		return err
	}
	defer r.Close()
	verifier := b.Digest.Verifier()
	name := path.Join(ocispec.ImageBlobsDir, b.Digest.Algorithm().String(), b.Digest.Encoded())
	if err := writeEntry(t, name, r.Size(), io.TeeReader(content.NewReader(r), verifier)); err != nil {
		return err
	}
	if ctx.Err() == nil && !verifier.Verified() {
		return errors.New("it is damaged on this disk")
	}
	return ctx.Err()
}

func writeEntry(t *tar.Writer, name string, size int64, r io.Reader) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := io.Copy(t, r)
	return err
}
