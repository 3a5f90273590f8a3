package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// whyUnusable returns what keeps an image from running on this node, or "".
func whyUnusable(ctx context.Context, store content.Store, target ocispec.Descriptor) (string, error) {
	if other, err := otherPlatforms(ctx, store, target); err != nil || other != "" {
		return other, err
	}
	whole, _, _, missing, err := coreimages.Check(ctx, store, target, platforms.Default())
	if err != nil {
		return "", err
	}
	if !whole || len(missing) > 0 {
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
