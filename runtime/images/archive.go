package images

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// openFile opens a file of the directory. It may have become a pipe since the directory
// was read: that would wait for ever.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file (%s)", path, info.Mode().Type())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// importLabel marks the leases of imports. They are removed at the next start when a
// power cut has kept an import from doing so: containerd would hold what was read for
// another day.
const importLabel = "brink.io/import"

// dropImports removes what imports of an earlier run have left half done.
func dropImports(ctx context.Context, client *containerd.Client) error {
	left, err := client.LeasesService().List(ctx, fmt.Sprintf("labels.%q", importLabel))
	if err != nil {
		return fmt.Errorf("listing imports that were cut short: %w", err)
	}
	for _, lease := range left {
		if err := client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("dropping an import that was cut short: %w", err)
		}
	}
	return nil
}

// archiveStore is the content store as one import sees it. containerd's import names what
// it writes by the entries of the archive. Two imports at the same time would wait for
// each other, and one that was cut short would be continued with the bytes of another
// archive: so each import has names of its own here. And what the node has is not written
// to its card again.
type archiveStore struct {
	content.Store
	suffix string
}

func newArchiveStore(store content.Store) archiveStore { return archiveStore{store, "-" + rand.Text()} }

func (a archiveStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	if d, ok := blobDigest(strings.TrimPrefix(o.Ref, "tar-")); ok && o.Desc.Digest == "" {
		o.Desc.Digest = d
	}
	w, err := a.Store.Writer(ctx, content.WithRef(o.Ref+a.suffix), content.WithDescriptor(o.Desc))
	if errdefs.IsAlreadyExists(err) && o.Desc.Digest != "" && strings.HasPrefix(o.Ref, "tar-") {
		return &knownBlob{digest: o.Desc.Digest}, nil
	}
	return w, err
}

// blobDigest returns the digest that an entry of an OCI layout is named by.
func blobDigest(name string) (digest.Digest, bool) {
	dir, encoded := path.Split(name)
	algorithm, ok := strings.CutPrefix(strings.TrimSuffix(dir, "/"), "blobs/")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), encoded)
	return d, ok && d.Validate() == nil
}

// knownBlob takes what the node has already. The lease of the import holds it.
type knownBlob struct {
	digest digest.Digest
	offset int64
}

func (k *knownBlob) Write(p []byte) (int, error) {
	k.offset += int64(len(p))
	return len(p), nil
}

func (k *knownBlob) Close() error          { return nil }
func (k *knownBlob) Digest() digest.Digest { return k.digest }
func (k *knownBlob) Truncate(int64) error  { k.offset = 0; return nil }

func (k *knownBlob) Commit(context.Context, int64, digest.Digest, ...content.Opt) error { return nil }

func (k *knownBlob) Status() (content.Status, error) {
	return content.Status{Offset: k.offset, StartedAt: time.Now(), UpdatedAt: time.Now()}, nil
}

// counted returns f as a stream that reports how far it was read.
func (i *importer) counted(f *os.File) io.Reader {
	size := int64(0)
	if info, err := f.Stat(); err == nil {
		size = info.Size()
	}
	return &countedReader{r: f, size: size, report: i.report}
}

type countedReader struct {
	r       io.Reader
	size    int64
	done    int64
	percent int64
	report  func(string)
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.done += int64(n)
	if c.size > 0 {
		if now := min(100, c.done*100/c.size); now != c.percent {
			c.percent = now
			c.report(fmt.Sprintf("reading, %d %%", now))
		}
	}
	return n, err
}

// hasRoomFor returns an error if the disk cannot take the content of an archive.
func (i *importer) hasRoomFor(ctx context.Context, f *os.File, store content.Store) error {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return err // a pipe: nobody knows what comes
	}
	need, err := newContent(ctx, f, store)
	if err != nil { // compressed: the node may have what is in it
		size, _ := unpackedSize(f, info.Size())
		need = estimate{guessed: size}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return needSpace(ctx, i.root, need)
}

// newContent returns how much of a plain tar the node has not yet. It reads the headers
// alone, and returns an error for what is no plain tar. Of an entry without a digest in its
// name, as in older archives of docker, nobody knows whether the node has it: it is written
// all the same, and dropped if so, so there must be room for the largest.
func newContent(ctx context.Context, f *os.File, store content.Store) (estimate, error) {
	total, largest := estimate{}, int64(0)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return estimate{total.known + largest, total.guessed - largest}, nil
		}
		if err != nil {
			return total, err
		}
		d, named := blobDigest(path.Clean(h.Name))
		if named {
			if _, err := store.Info(ctx, d); err == nil {
				continue
			}
		} else {
			largest = max(largest, h.Size)
		}
		total.add(h.Size, named)
	}
}
