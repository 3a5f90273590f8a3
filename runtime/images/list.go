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
	// Name is a reference with a tag or a digest. An image has as many names as
	// it was given.
	Name string `json:"name"`
	// Digest is that of the manifest or index that Name stands for.
	Digest string `json:"digest"`
	// Size is how many bytes of it are in the content store, compressed.
	Size int64 `json:"size"`
	// Pinned images are not removed when the disk fills up.
	Pinned bool `json:"pinned"`
}

// List returns the images that pods on this node can use without a pull, by
// name. Left out are images that are not whole or for another platform, names that
// no pod can say, the names that containerd keeps for itself, sha256:..., and those
// by digest of an image that has a tag in the same repository.
func (s Store) List(ctx context.Context) ([]Stored, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, Namespace)
	found, err := client.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	out := []Stored{}
	for _, image := range found {
		usable, err := isUsable(ctx, image)
		if err != nil {
			return nil, fmt.Errorf("looking at image %s: %w", image.Name(), err)
		}
		if !usable {
			continue
		}
		size, err := image.Usage(ctx)
		if err != nil {
			return nil, fmt.Errorf("measuring image %s: %w", image.Name(), err)
		}
		out = append(out, stored(image.Metadata(), size))
	}
	return sortImages(out), nil
}

func isUsable(ctx context.Context, image containerd.Image) (bool, error) {
	if name, err := podName(image.Name()); err != nil || name != image.Name() || isConfigName(name) {
		return false, nil
	}
	reason, err := whyUnusable(ctx, image.ContentStore(), image.Target())
	return reason == "", err
}

// sortImages sorts by name and drops what is there by a tag already.
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

// isConfigName tells the name by which the CRI plugin finds an image by its id.
func isConfigName(name string) bool { return strings.HasPrefix(name, "sha256:") }

func stored(i coreimages.Image, size int64) Stored {
	return Stored{Name: i.Name, Digest: i.Target.Digest.String(), Size: size, Pinned: i.Labels[pinnedLabel] == pinnedValue}
}

// sourceLabel begins containerd's labels of content that was pulled.
const sourceLabel = "containerd.io/distribution.source."

// Named is a name of an image on this node.
type Named struct {
	Name string
	// ID is the digest of its configuration, by which the CRI calls it.
	ID string
	// Imported images were brought by the node's owner, not by a pull.
	Imported bool
}

// Names returns every name of every image that is whole.
func (s Store) Names(ctx context.Context) ([]Named, error) {
	client, err := s.connect()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, Namespace)
	found, err := client.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var out []Named
	for _, image := range found {
		config, err := image.Config(ctx)
		if err != nil {
			continue // nothing that a pod could use
		}
		imported, err := isImported(ctx, image)
		if err != nil {
			return nil, fmt.Errorf("looking at image %s: %w", image.Name(), err)
		}
		out = append(out, Named{Name: image.Name(), ID: config.Digest.String(), Imported: imported})
	}
	return out, nil
}

// isImported tells what brink imported by its label, and what ctr did by what every
// pull leaves with the content: the registry that it came from.
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

// WholeName is the name by which the runtime knows what a pod calls image: busybox
// is docker.io/library/busybox:latest. What is no name stays as it is.
func WholeName(image string) string {
	name, err := reference.ParseDockerRef(image)
	if err != nil {
		return image
	}
	return name.String()
}
