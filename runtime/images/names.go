package images

import (
	"context"
	"fmt"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	coreimages "github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Namespace is where containerd's CRI keeps its images.
const Namespace = "k8s.io"

// The labels by which the CRI plugin knows an image as its own, and as one that the
// kubelet's image garbage collection must leave alone (containerd's
// internal/cri/labels).
const (
	managedLabel, managedValue = "io.cri-containerd.image", "managed"
	pinnedLabel, pinnedValue   = "io.cri-containerd.pinned", "pinned"
)

// PinnedLabels returns the labels of an image that the CRI knows and that is never
// collected.
func PinnedLabels() map[string]string {
	return map[string]string{managedLabel: managedValue, pinnedLabel: pinnedValue}
}

// importedLabel marks an image that the node's owner has imported. Its value is the
// image's digest: an image with another digest under the same name was pulled.
const importedLabel = "brink.io/imported"

// givenName returns the name that an archive gives to an image: by the annotation of
// containerd and docker, else by that of the OCI, which may be a tag alone.
func givenName(annotations map[string]string) string {
	if name := annotations[coreimages.AnnotationImageName]; name != "" {
		return name
	}
	return annotations[ocispec.AnnotationRefName]
}

// podName returns the name by which the CRI looks for an image that a pod calls given. A
// tag alone, as skopeo writes it, names no image: a pod's image "v1" is another one.
func podName(given string) (string, error) {
	if !strings.ContainsAny(given, "/:@") {
		return "", fmt.Errorf("%q is a tag and not the name of an image: save it with its whole name (registry.example/app:%s)", given, given)
	}
	name, err := reference.ParseDockerRef(given)
	if err != nil {
		return "", fmt.Errorf("%q is no name of an image: %w", given, err)
	}
	return name.String(), nil
}

// podNames returns all names that a pull gives to an image: its own, the one by digest,
// and its id, by which the CRI mounts it as a volume.
func podNames(name string, target ocispec.Descriptor, id string) []string {
	names := []string{id, name}
	if parsed, err := reference.ParseDockerRef(name); err == nil {
		if digested := parsed.Name() + "@" + target.Digest.String(); digested != name {
			names = append(names, digested)
		}
	}
	return names
}

// recordImage gives an imported image its names. Other labels stay, such as that of an
// image that is pinned already.
func recordImage(ctx context.Context, client *containerd.Client, name string, target ocispec.Descriptor) error {
	config, err := coreimages.Config(ctx, client.ContentStore(), target, platforms.Default())
	if err != nil {
		return err
	}
	labels := map[string]string{managedLabel: managedValue, importedLabel: target.Digest.String()}
	for _, name := range podNames(name, target, config.Digest.String()) {
		if err := putImage(ctx, client.ImageService(), coreimages.Image{Name: name, Target: target, Labels: labels}); err != nil {
			return err
		}
	}
	return nil
}

// putImage creates an image's record, or changes what differs in it: the CRI reads an
// image again whenever its record is written.
func putImage(ctx context.Context, store coreimages.Store, image coreimages.Image) error {
	old, err := store.Get(ctx, image.Name)
	if errdefs.IsNotFound(err) {
		_, err = store.Create(ctx, image)
		return err
	}
	if err != nil {
		return err
	}
	var fields []string
	if old.Target.Digest != image.Target.Digest {
		fields = append(fields, "target")
	}
	for key, value := range image.Labels {
		if old.Labels[key] != value {
			fields = append(fields, "labels."+key)
		}
	}
	if len(fields) == 0 {
		return nil
	}
	_, err = store.Update(ctx, image, fields...)
	return err
}
