package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// pauseName is a name that no registry serves: were the image ever missing, a
// pull would fail at once on this machine instead of running a stranger's
// program in every pod.
const pauseName = "localhost/brink/pause:1"

// pauseArchive is an OCI image layout in a tar, the form containerd imports.
func pauseArchive(program, arch string) ([]byte, error) {
	image, err := pauseImage(program, arch)
	if err != nil {
		return nil, err
	}
	files, err := layout(image)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := writeTar(&out, files); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func pauseImage(program, arch string) (v1.Image, error) {
	layer, err := pauseLayer(program)
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = "linux", arch, variant(arch)
	// Not root and no user of any pod: pause needs no right at all.
	config.Config = v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}
	config.History = nil
	image, err = mutate.ConfigFile(image, config)
	if err != nil {
		return nil, err
	}
	return mutate.ConfigMediaType(image, types.OCIConfigJSON), nil
}

// variant is what containerd compares on 32-bit ARM; the binary is built for the
// lowest that brink supports.
func variant(arch string) string {
	if arch == "arm" {
		return "v7"
	}
	return ""
}

// pauseLayer is an uncompressed tar: half a kilobyte is not worth a gzip header.
func pauseLayer(program string) (v1.Layer, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	t := tar.NewWriter(&out)
	h := &tar.Header{Name: "pause", Mode: 0o555, Size: int64(len(content)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
	if err := t.WriteHeader(h); err != nil {
		return nil, err
	}
	if _, err := t.Write(content); err != nil {
		return nil, err
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	return static.NewLayer(out.Bytes(), types.OCIUncompressedLayer), nil
}

// layout lists the files of an OCI image layout with this one image, named.
func layout(image v1.Image) ([]file, error) {
	manifest, err := image.RawManifest()
	if err != nil {
		return nil, err
	}
	config, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	index, err := indexOf(image)
	if err != nil {
		return nil, err
	}
	files := []file{
		newFile("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)),
		newFile("index.json", 0o644, index),
	}
	for _, content := range [][]byte{manifest, config} {
		files = append(files, blob(content))
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	for _, layer := range layers {
		content, err := read(layer)
		if err != nil {
			return nil, err
		}
		files = append(files, blob(content))
	}
	return files, nil
}

func indexOf(image v1.Image) ([]byte, error) {
	d, err := partial.Descriptor(image)
	if err != nil {
		return nil, err
	}
	d.Annotations = map[string]string{"io.containerd.image.name": pauseName}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: image, Descriptor: *d}).RawManifest()
}

func blob(content []byte) file {
	hash, _, err := v1.SHA256(bytes.NewReader(content))
	if err != nil {
		panic(fmt.Sprintf("reading from memory: %v", err))
	}
	return newFile("blobs/sha256/"+hash.Hex, 0o644, content)
}

func read(layer v1.Layer) ([]byte, error) {
	r, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
