package images

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	coreimages "github.com/containerd/containerd/v2/core/images"
	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one imported image.
type Image struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Import reads one archive and returns its images, which are ready to run. The error is
// one line and names the images that no pod of this node could use; the others are
// returned beside it. Images are not pinned: when the disk fills, the kubelet may collect
// what somebody once imported by hand. Those that are pinned for an archive in the
// directory stay pinned.
func (s Store) Import(ctx context.Context, path string) ([]Image, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := whileServed(ctx, client)
	defer cancel()
	imported, err := importFile(namespaces.WithNamespace(ctx, Namespace), client, Snapshotter(ctx, s.Layout), path)
	if cause := context.Cause(ctx); errors.Is(cause, errGone) {
		return imported, fmt.Errorf("importing %s: %w", path, cause)
	}
	return imported, err
}

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
	imported    []Image
	unusable    []string
}

// importFile returns the images of an archive that pods can use, and an unusableError
// for the others.
func importFile(ctx context.Context, client *containerd.Client, snapshotter, path string) ([]Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	i := importer{client: client, snapshotter: snapshotter}
	if err := i.read(ctx, f); err != nil {
		return i.imported, fmt.Errorf("importing %s: %w", path, err)
	}
	if len(i.unusable) > 0 {
		return i.imported, &unusableError{path, i.unusable}
	}
	return i.imported, nil
}

func (i *importer) read(ctx context.Context, f io.Reader) error {
	stream, err := decompress(f)
	if err != nil {
		return err
	}
	defer stream.Close()
	// What has no name when the lease ends is garbage.
	ctx, done, err := i.client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer done(ctx)
	top, err := imagearchive.ImportIndex(ctx, i.client.ContentStore(), stream)
	if err != nil {
		return err
	}
	text, err := content.ReadBlob(ctx, i.client.ContentStore(), top)
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("its index: %w", err)
	}
	return i.importNamed(ctx, index.Manifests)
}

// unreadable are the first bytes of compressed files that are not supported.
var unreadable = map[string]string{"\xfd7zXZ\x00": "xz", "BZh": "bzip2", "\x04\x22\x4d\x18": "lz4", "LZIP": "lzip"}

// decompress recognizes by its content how an archive is compressed.
func decompress(f io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReader(f)
	start, _ := buffered.Peek(8) // a shorter file is no archive: reading it fails
	for magic, name := range unreadable {
		if strings.HasPrefix(string(start), magic) {
			return nil, fmt.Errorf("it is compressed by %s, which is not read here: compress it by gzip or zstd, or not at all", name)
		}
	}
	return compression.DecompressStream(buffered)
}

// importNamed imports the images that have a name. Where several have the same one, for
// several platforms, it becomes the name of the image that runs here.
func (i *importer) importNamed(ctx context.Context, found []ocispec.Descriptor) error {
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
		return errors.New("it holds no image with a name; save it with one (name:tag)")
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
	if err := containerd.NewImage(i.client, image).Unpack(ctx, i.snapshotter); err != nil {
		return fmt.Errorf("unpacking %s: %w", name, err)
	}
	if err := recordImage(ctx, i.client, name, target); err != nil {
		return fmt.Errorf("recording %s: %w", name, err)
	}
	i.imported = append(i.imported, Image{Name: name, Digest: target.Digest.String()})
	return nil
}

// whyUnusable returns what keeps an image from running on this node, or "".
func whyUnusable(ctx context.Context, store content.Store, target ocispec.Descriptor) (string, error) {
	if other, err := otherPlatforms(ctx, store, target); err != nil || other != "" {
		return other, err
	}
	whole, _, _, missing, err := coreimages.Check(ctx, store, target, platforms.Default())
	if err != nil {
		return "", err
	}
	if !whole {
		return fmt.Sprintf("is not whole: %d of its parts are missing, the first is %s", len(missing), missing[0].Digest), nil
	}
	return "", nil
}

// otherPlatforms returns which platforms an image is for when this node's is not among
// them, else "". An image that names no platform counts as one for all.
func otherPlatforms(ctx context.Context, store content.Store, target ocispec.Descriptor) (string, error) {
	found, err := imagePlatforms(ctx, store, target)
	if err != nil {
		return "", err
	}
	var others []string
	for _, p := range found {
		if p.OS == "" || p.Architecture == "" || platforms.Default().Match(p) {
			return "", nil
		}
		if other := platforms.Format(platforms.Normalize(p)); !slices.Contains(others, other) {
			others = append(others, other)
		}
	}
	if len(others) == 0 {
		return "", nil
	}
	return fmt.Sprintf("is for %s, this node is %s", strings.Join(others, ", "), platforms.Format(platforms.DefaultSpec())), nil
}

// imagePlatforms returns the platforms of an image's manifests. The content for other
// platforms may be missing: then the index says which they are.
func imagePlatforms(ctx context.Context, store content.Store, target ocispec.Descriptor) ([]ocispec.Platform, error) {
	if !coreimages.IsIndexType(target.MediaType) {
		manifest, err := coreimages.Manifest(ctx, store, target, nil)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		platform, err := coreimages.ConfigPlatform(ctx, store, manifest.Config)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		return []ocispec.Platform{platform}, err
	}
	children, err := coreimages.Children(ctx, store, target)
	if err != nil {
		return nil, err
	}
	var out []ocispec.Platform
	for _, child := range children {
		if p := child.Platform; p != nil {
			if p.OS != "unknown" { // attestations
				out = append(out, *p)
			}
			continue
		}
		below, err := imagePlatforms(ctx, store, child)
		if err != nil {
			return nil, err
		}
		out = append(out, below...)
	}
	return out, nil
}

// keepContent protects what belongs to an image from containerd's garbage collector.
// What the archive lacks, such as other platforms, is skipped.
func keepContent(ctx context.Context, store content.Store, target ocispec.Descriptor) error {
	children := func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		out, err := coreimages.Children(ctx, store, desc)
		if errdefs.IsNotFound(err) {
			return nil, coreimages.ErrSkipDesc
		}
		return out, err
	}
	return coreimages.Walk(ctx, coreimages.SetChildrenLabels(store, coreimages.FilterPlatforms(children, platforms.Default())), target)
}
