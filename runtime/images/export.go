package images

import (
	"context"
	"fmt"
	"slices"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Export writes images that are on this node into a bundle, without what earlier bundles
// have.
func (s Store) Export(ctx context.Context, out string, given, from []string, report func(string)) (Bundled, error) {
	names, err := wholeNames(given)
	if err != nil {
		return Bundled{}, err
	}
	known, err := readBundles(ctx, from)
	if err != nil {
		return Bundled{}, err
	}
	client, err := s.connect()
	if err != nil {
		return Bundled{}, err
	}
	defer client.Close()
	ctx, cancel := whileServed(ctx, client)
	defer cancel()
	ctx = namespaces.WithNamespace(ctx, Namespace)
	// Nobody shall remove what is being copied.
	ctx, done, err := client.WithLease(ctx, leases.WithRandomID(), leases.WithLabel(importLabel, "true"))
	if err != nil {
		return Bundled{}, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	var parts []part
	for _, name := range names {
		p, err := exported(ctx, client, name)
		if err != nil {
			return Bundled{}, fmt.Errorf("exporting %s: %w", name, err)
		}
		parts = append(parts, p)
	}
	report("writing " + out)
	return newBundleWriter(parts, known).write(ctx, client.ContentStore(), out)
}

// exported returns an image with all of its blobs that this node has: those of its own
// platform.
func exported(ctx context.Context, client *containerd.Client, name string) (part, error) {
	image, err := client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return part{}, fmt.Errorf("it is not on this node: see brink images list")
	}
	if err != nil {
		return part{}, err
	}
	store := client.ContentStore()
	if reason, err := whyUnusable(ctx, store, image.Target); err != nil || reason != "" {
		return part{}, fmt.Errorf("it cannot be used: %s%v", reason, err)
	}
	p := part{name: name, target: image.Target}
	collect := func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		if _, err := store.Info(ctx, desc.Digest); errdefs.IsNotFound(err) {
			return nil, coreimages.ErrSkipDesc
		} else if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(p.blobs, func(b ocispec.Descriptor) bool { return b.Digest == desc.Digest }) {
			p.blobs = append(p.blobs, desc)
		}
		return coreimages.Children(ctx, store, desc)
	}
	only := platforms.Default()
	err = coreimages.Walk(ctx, coreimages.FilterPlatforms(coreimages.HandlerFunc(collect), only), image.Target)
	return p, err
}
