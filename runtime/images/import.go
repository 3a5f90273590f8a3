package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"brink/internal/layout"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	coreimages "github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Image is one imported image.
type Image struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Import reads one archive and returns its images, which are ready to run. The error is
// one line and names the images that no pod of this node could use; the others are
// returned beside it. With pin the images are protected from the kubelet's garbage
// collection, as somebody brought them by hand and nobody may be there to bring them
// again. Without pin an earlier such protection is taken away; that of an archive in the
// directory stays.
func (s Store) Import(ctx context.Context, path string, pin bool, report func(text string)) ([]Image, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := whileServed(ctx, client)
	defer cancel()
	i := newImporter(client, s.Layout, Snapshotter(ctx, s.Layout), report)
	i.open = os.Open // a pipe too: <(curl ...)
	within := namespaces.WithNamespace(ctx, Namespace)
	imported, err := i.file(within, path)
	for _, image := range imported {
		err = errors.Join(err, s.pinByHand(within, client, image.Name, pin))
	}
	if cause := context.Cause(ctx); errors.Is(cause, errGone) {
		return imported, fmt.Errorf("importing %s: %w", path, cause)
	}
	return imported, err
}

// archiveError is an error for which the archive is to blame, and not this node: the same
// file would fail again.
type archiveError struct{ error }

func (e *archiveError) Unwrap() error { return e.error }

// unusableError says in one line which images of an archive no pod of this node could
// use, and why. The others were imported.
type unusableError struct {
	path    string
	reasons []string
}

func (e *unusableError) Error() string { return fmt.Sprintf("importing %s: %s", e.path, e.text()) }

func (e *unusableError) text() string { return strings.Join(e.reasons, "; ") }

// importer imports one archive. containerd's own import records every image that an
// archive names, also one for another platform, whose content is then collected, or one
// under a name that no pod can use. Here an image gets its names when it is whole and
// unpacked, and not before.
type importer struct {
	client      *containerd.Client
	snapshotter string
	root        string // of containerd's data
	report      func(text string)
	open        func(path string) (*os.File, error)

	imported []Image
	unusable []string
}

func newImporter(client *containerd.Client, l layout.Layout, snapshotter string, report func(string)) *importer {
	return &importer{client: client, snapshotter: snapshotter, root: l.ContainerdRoot(), report: report, open: openFile}
}

// file returns the images of an archive that pods can use, and an unusableError for the
// others.
func (i *importer) file(ctx context.Context, path string) ([]Image, error) {
	f, err := i.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := i.read(ctx, f); err != nil {
		return i.imported, fmt.Errorf("importing %s: %w", path, err)
	}
	if len(i.unusable) > 0 {
		return i.imported, &unusableError{path, i.unusable}
	}
	return i.imported, nil
}

// read imports an archive under a lease: what has no name when that ends is garbage.
func (i *importer) read(ctx context.Context, f *os.File) error {
	ctx, done, err := i.client.WithLease(ctx, leases.WithRandomID(), leases.WithLabel(importLabel, "true"))
	if err != nil {
		return err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	store := newArchiveStore(i.client.ContentStore())
	if err := i.hasRoomFor(ctx, f, store); err != nil {
		return err
	}
	stream, err := decompress(i.counted(f), maxWindow())
	if err != nil {
		return err
	}
	defer stream.Close()
	top, err := imagearchive.ImportIndex(ctx, store, stream)
	if err != nil {
		return blame(ctx, err)
	}
	text, err := content.ReadBlob(ctx, i.client.ContentStore(), top)
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return &archiveError{fmt.Errorf("its index: %w", err)}
	}
	return i.importNamed(ctx, index.Manifests)
}

// blame returns err as that of the archive, unless it is this node's.
func blame(ctx context.Context, err error) error {
	var errno unix.Errno
	switch {
	case ctx.Err() != nil, errors.As(err, &errno), strings.Contains(err.Error(), "no space left"):
		return err
	case errdefs.IsUnavailable(err), errdefs.IsUnknown(err), errdefs.IsInternal(err), errdefs.IsCanceled(err),
		errdefs.IsDeadlineExceeded(err), errdefs.IsResourceExhausted(err):
		return err
	}
	return &archiveError{err}
}

// importNamed imports the images that have a name. Where several have the same one, for
// several platforms, it becomes the name of the image that runs here.
func (i *importer) importNamed(ctx context.Context, found []ocispec.Descriptor) error {
	if err := i.hasRoomToUnpack(ctx, found); err != nil {
		return err
	}
	named := false
	for _, target := range found {
		given := givenName(target.Annotations)
		if given == "" {
			continue
		}
		named = true
		name, err := podName(given)
		if err != nil {
			i.unusable = append(i.unusable, err.Error())
			continue
		}
		if err := i.importOne(ctx, name, target); err != nil {
			return err
		}
	}
	if !named {
		return &archiveError{errors.New("it holds no image with a name; save it with one (name:tag)")}
	}
	i.unusable = slices.DeleteFunc(i.unusable, func(reason string) bool {
		return slices.ContainsFunc(i.imported, func(done Image) bool { return strings.HasPrefix(reason, done.Name+" is for ") })
	})
	return nil
}

// importOne imports one image, or notes why it is unusable. An error is a fault of the
// node and not of the image.
func (i *importer) importOne(ctx context.Context, name string, target ocispec.Descriptor) error {
	reason, err := whyUnusable(ctx, i.client.ContentStore(), target)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if reason != "" {
		i.unusable = append(i.unusable, name+" "+reason)
		return nil
	}
	if err := keepContent(ctx, i.client.ContentStore(), target); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	image := coreimages.Image{Name: name, Target: target}
	i.report("unpacking " + name)
	if err := containerd.NewImage(i.client, image).Unpack(ctx, i.snapshotter); err != nil {
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	if err := recordImage(ctx, i.client, name, target); err != nil {
		return fmt.Errorf("recording %s: %w", name, err)
	}
	i.imported = append(i.imported, Image{Name: name, Digest: target.Digest.String()})
	return nil
}
