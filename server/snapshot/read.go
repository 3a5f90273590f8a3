package snapshot

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"brink/internal/layout"
)

// mostManifest is more than a manifest has.
const mostManifest = 1 << 20

var errNone = errors.New("is not a snapshot of brink")

// reader reads a snapshot from beginning to end.
type reader struct {
	Manifest
	archive *tar.Reader
	packed  *zstd.Decoder
}

func newReader(in io.Reader) (*reader, error) {
	packed, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return nil, err
	}
	r := &reader{archive: tar.NewReader(packed), packed: packed}
	if err := r.readManifest(); err != nil {
		packed.Close()
		return nil, err
	}
	return r, nil
}

func (r *reader) readManifest() error {
	header, err := r.archive.Next()
	switch {
	case errors.Is(err, zstd.ErrMagicMismatch), errors.Is(err, tar.ErrHeader), err == io.EOF:
		return errNone
	case err != nil:
		return fmt.Errorf("is damaged or cut short: %w", err)
	case header.Name != manifestName || header.Typeflag != tar.TypeReg:
		return errNone
	}
	text, err := io.ReadAll(io.LimitReader(r.archive, mostManifest))
	if err != nil {
		return fmt.Errorf("is damaged or cut short: %w", err)
	}
	var other struct { // what every format has
		Format int
		MadeBy string
	}
	if err := json.Unmarshal(text, &other); err != nil || other.Format == 0 {
		return errNone
	}
	if other.Format != Format {
		return fmt.Errorf("is a snapshot by brink %s in format %d, and this brink reads format %d: use that version", other.MadeBy, other.Format, Format)
	}
	if err := json.Unmarshal(text, &r.Manifest); err != nil {
		return fmt.Errorf("is damaged: its manifest: %w", err)
	}
	return nil
}

// files calls visit for each file but the manifest, and checks that they are those of the
// manifest, in its order and with its sums. visit reads all of content.
func (r *reader) files(l layout.Layout, visit func(f File, content io.Reader) error) error {
	seen := map[string]bool{}
	for _, f := range r.Files {
		if !isPart(l, f.Path) || seen[f.Path] || f.Size < 0 {
			return fmt.Errorf("is damaged: %q has no place in a snapshot", f.Path)
		}
		seen[f.Path] = true
		header, err := r.archive.Next()
		if err != nil {
			return fmt.Errorf("is damaged or cut short: %w", unexpected(err))
		}
		if header.Name != f.Path || header.Typeflag != tar.TypeReg || header.Size != f.Size {
			return fmt.Errorf("is damaged: where %s should be is %q", f.Path, header.Name)
		}
		hash := sha256.New()
		if err := visit(f, io.TeeReader(r.archive, hash)); err != nil {
			return err
		}
		if hex.EncodeToString(hash.Sum(nil)) != f.SHA256 {
			return fmt.Errorf("is damaged: the SHA-256 sum of %s is another than when it was made", f.Path)
		}
	}
	for _, path := range []string{l.Database(), l.Cert(layout.ServerCA), l.Key(layout.ServerCA)} {
		if !seen[mustRel(l, path)] {
			return fmt.Errorf("is damaged: %s is not in it", mustRel(l, path))
		}
	}
	if _, err := r.archive.Next(); err != io.EOF {
		return errors.New("is damaged: there is more in it than its manifest says")
	}
	return nil
}

// unexpected is the error of an archive that ends too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Check reads a snapshot to its end and returns its manifest, or what is wrong with it.
func Check(l layout.Layout, in io.Reader) (Manifest, error) {
	r, err := newReader(in)
	if err != nil {
		return Manifest{}, fmt.Errorf("what was written %w", err)
	}
	defer r.packed.Close()
	err = r.files(l, func(_ File, content io.Reader) error {
		if _, err := io.Copy(io.Discard, content); err != nil {
			return fmt.Errorf("is damaged or cut short: %w", err)
		}
		return nil
	})
	if err != nil {
		return Manifest{}, fmt.Errorf("what was written %w", err)
	}
	return r.Manifest, nil
}

// open opens a regular file. A link may lead to one.
func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s is no file", path)
	}
	return f, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
