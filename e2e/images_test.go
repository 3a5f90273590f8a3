package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// The images every node of these tests finds in its pre-start directory.
const (
	busybox1   = "e2e.local/busybox:1"
	busybox2   = "e2e.local/busybox:2"
	entrypoint = "e2e.local/entrypoint:1"
	server1    = "e2e.local/server:1"
	server2    = "e2e.local/server:2"
)

// busyboxPath is where Debian's busybox-static puts it.
const busyboxPath = "/bin/busybox"

// file is an entry of an image layer: a directory when the name ends in a slash,
// a symbolic link when target is set.
type file struct {
	name, target string
	mode         int64
	content      []byte
}

// writeImages makes all test images and writes them as one docker archive.
func writeImages(path, serverBinary string) error {
	box, err := busyboxFiles()
	if err != nil {
		return err
	}
	server, err := os.ReadFile(serverBinary)
	if err != nil {
		return err
	}
	program := file{name: "server", mode: 0o755, content: server}
	echo := v1.Config{Entrypoint: []string{"/bin/echo", "image-entrypoint"}, Cmd: []string{"image-cmd"}}
	serve := v1.Config{Entrypoint: []string{"/server"}}
	refs := map[name.Tag]v1.Image{}
	for _, image := range []struct {
		ref    string
		config v1.Config
		layers [][]file
	}{
		{busybox1, v1.Config{Cmd: []string{"sh"}}, [][]file{box, versionFile("1")}},
		{busybox2, v1.Config{Cmd: []string{"sh"}}, [][]file{box, versionFile("2")}},
		{entrypoint, echo, [][]file{box}},
		{server1, serve, [][]file{box, {program}, versionFile("1")}},
		{server2, serve, [][]file{box, {program}, versionFile("2")}},
	} {
		tag, err := name.NewTag(image.ref)
		if err != nil {
			return err
		}
		if refs[tag], err = newImage(image.config, image.layers); err != nil {
			return fmt.Errorf("making image %s: %w", image.ref, err)
		}
	}
	return tarball.MultiWriteToFile(path, refs)
}

func versionFile(version string) []file {
	return []file{{name: "version", mode: 0o644, content: []byte(version + "\n")}}
}

func newImage(config v1.Config, layers [][]file) (v1.Image, error) {
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: runtime.GOARCH, OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	for _, files := range layers {
		layer, err := newLayer(files)
		if err != nil {
			return nil, err
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			return nil, err
		}
	}
	config.Env = []string{"PATH=/bin"}
	return mutate.Config(img, config)
}

func newLayer(files []file) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := writeEntry(w, f); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
}

func writeEntry(w *tar.Writer, f file) error {
	h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Linkname: f.target, Typeflag: tar.TypeReg}
	switch {
	case f.target != "":
		h.Typeflag = tar.TypeSymlink
	case strings.HasSuffix(f.name, "/"):
		h.Typeflag = tar.TypeDir
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(f.content)
	return err
}

// busyboxFiles is a root file system of the host's static busybox with a link
// for each of its applets.
func busyboxFiles() ([]file, error) {
	bin, err := os.ReadFile(busyboxPath)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(busyboxPath, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busyboxPath, err)
	}
	files := []file{
		{name: "bin/", mode: 0o755},
		{name: "etc/", mode: 0o755},
		{name: "tmp/", mode: 0o1777},
		{name: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")},
		{name: "etc/group", mode: 0o644, content: []byte("root:x:0:\nnobody:x:65534:\n")},
		{name: "bin/busybox", mode: 0o755, content: bin},
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			files = append(files, file{name: "bin/" + applet, target: "busybox", mode: 0o777})
		}
	}
	return files, nil
}

// buildServer compiles testimage into dir.
func buildServer(dir string) (string, error) {
	out := filepath.Join(dir, "testimage")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./testimage")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building testimage: %w: %s", err, text)
	}
	return out, nil
}
