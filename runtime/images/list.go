package images

import (
	"context"
	"fmt"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/distribution/reference"
)

// Stored is an image on this node.
type Stored struct {
	// Name is a reference with a tag or a digest. An image may have several.
	Name string `json:"name"`
	// Digest is that of the manifest or index that has the name.
	Digest string `json:"digest"`
	// Size is how many bytes it has in the content store, compressed.
	Size int64 `json:"size"`
	// Pinned images are not removed when the disk fills up.
	Pinned bool `json:"pinned"`
}

// each calls do for every name of every image, whole or not.
func (s Store) each(ctx context.Context, do func(ctx context.Context, image containerd.Image) error) error {
	client, err := s.connect()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, Namespace)
	found, err := client.ListImages(ctx)
	if err != nil {
		return fmt.Errorf("listing images: %w", err)
	}
	for _, image := range found {
		if err := do(ctx, image); err != nil {
			return fmt.Errorf("looking at image %s: %w", image.Name(), err)
		}
	}
	return nil
}

// List returns the images that pods on this node can use without a pull, sorted by name.
// It leaves out images that are not whole or for another platform, names that no pod can
// use, names that containerd keeps for itself (sha256:...), and names by digest of an
// image that has a tag in the same repository.
func (s Store) List(ctx context.Context) ([]Stored, error) {
	out := []Stored{}
	err := s.each(ctx, func(ctx context.Context, image containerd.Image) error {
		if usable, err := isUsable(ctx, image); err != nil || !usable {
			return err
		}
		size, err := image.Usage(ctx)
		if err != nil {
			return fmt.Errorf("measuring it: %w", err)
		}
		out = append(out, stored(image.Metadata(), size))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sortImages(out), nil
}

// isUsable reports whether pods on this node can use an image by that name.
func isUsable(ctx context.Context, image containerd.Image) (bool, error) {
	if name, err := podName(image.Name()); err != nil || name != image.Name() || isConfigName(name) {
		return false, nil
	}
	reason, err := whyUnusable(ctx, image.ContentStore(), image.Target())
	return reason == "", err
}

// sortImages sorts by name, and drops a name by digest where the image has a tag.
func sortImages(found []Stored) []Stored {
	tagged := map[string]bool{}
	for _, i := range found {
		if colon := strings.LastIndex(i.Name, ":"); colon > 0 && !strings.Contains(i.Name, "@") {
			tagged[i.Name[:colon]+"@"+i.Digest] = true
		}
	}
	out := slices.DeleteFunc(found, func(i Stored) bool { return tagged[i.Name] })
	slices.SortFunc(out, func(a, b Stored) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// isConfigName reports whether a name is an image's id, by which the CRI plugin finds it.
func isConfigName(name string) bool { return strings.HasPrefix(name, "sha256:") }

func stored(i coreimages.Image, size int64) Stored {
	return Stored{Name: i.Name, Digest: i.Target.Digest.String(), Size: size, Pinned: i.Labels[pinnedLabel] == pinnedValue}
}

// sourceLabel is how containerd's labels of pulled content begin.
const sourceLabel = "containerd.io/distribution.source."

// Named is a name of an image on this node.
type Named struct {
	Name string
	// ID is the digest of the image's configuration, which is its id in the CRI.
	ID string
	// Imported is true for an image that the node's owner imported, false after a pull.
	Imported bool
}

// Names returns every name of every image that is whole.
func (s Store) Names(ctx context.Context) ([]Named, error) {
	var out []Named
	err := s.each(ctx, func(ctx context.Context, image containerd.Image) error {
		config, err := image.Config(ctx)
		if err != nil {
			return nil // nothing that a pod could use
		}
		imported, err := isImported(ctx, image)
		if err != nil {
			return err
		}
		out = append(out, Named{Name: image.Name(), ID: config.Digest.String(), Imported: imported})
		return nil
	})
	return out, err
}

// isImported reports whether an image was imported. One that brink imported has a label;
// one that ctr imported lacks what every pull leaves with the content, the registry that
// it came from.
func isImported(ctx context.Context, image containerd.Image) (bool, error) {
	if image.Labels()[importedLabel] == image.Target().Digest.String() {
		return true, nil
	}
	info, err := image.ContentStore().Info(ctx, image.Target().Digest)
	if err != nil {
		return false, err
	}
	for key := range info.Labels {
		if strings.HasPrefix(key, sourceLabel) {
			return false, nil
		}
	}
	return true, nil
}

// WholeName returns the name by which containerd knows an image that a pod calls image:
// busybox is docker.io/library/busybox:latest. What is not a name stays as it is.
func WholeName(image string) string {
	name, err := reference.ParseDockerRef(image)
	if err != nil {
		return image
	}
	return name.String()
}
