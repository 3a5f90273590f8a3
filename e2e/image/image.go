// Package image makes image archives out of files, for machines that reach no
// registry: those of the tests, of the benchmark and of the example.
package image

import (
	"archive/tar"
	"bytes"
	"cmp"
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

// Busybox is where Debian's busybox-static puts it.
const Busybox = "/bin/busybox"

// File is an entry of a layer: a directory when the name ends in a slash, a
// symbolic link when Target is set.
type File struct {
	Name, Target string
	Mode         int64
	Content      []byte
}

// Image is what a name stands for. Its PATH is /bin.
type Image struct {
	Name string
	// Architecture is by default this machine's.
	Architecture string
	Config       v1.Config
	Layers       [][]File
}

// Write makes one docker archive of all images.
// The directory of path is made when it is missing.
func Write(path string, images ...Image) error {
	refs := map[name.Tag]v1.Image{}
	for _, i := range images {
		tag, err := name.NewTag(i.Name)
		if err != nil {
			return err
		}
		if refs[tag], err = i.build(); err != nil {
			return fmt.Errorf("making image %s: %w", i.Name, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return tarball.MultiWriteToFile(path, refs)
}

func (i Image) build() (v1.Image, error) {
	out, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: cmp.Or(i.Architecture, runtime.GOARCH), OS: "linux", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	for _, files := range i.Layers {
		layer, err := newLayer(files)
		if err != nil {
			return nil, err
		}
		if out, err = mutate.AppendLayers(out, layer); err != nil {
			return nil, err
		}
	}
	config := i.Config
	config.Env = []string{"PATH=/bin"}
	return mutate.Config(out, config)
}

func newLayer(files []File) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		if err := f.write(w); err != nil {
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

func (f File) write(w *tar.Writer) error {
	h := &tar.Header{Name: f.Name, Mode: f.Mode, Size: int64(len(f.Content)), Linkname: f.Target, Typeflag: tar.TypeReg}
	switch {
	case f.Target != "":
		h.Typeflag = tar.TypeSymlink
	case strings.HasSuffix(f.Name, "/"):
		h.Typeflag = tar.TypeDir
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(f.Content)
	return err
}

// BusyboxProgram is the host's static busybox alone, as /bin/busybox.
func BusyboxProgram() (File, error) { return busyboxProgram(Busybox) }

func busyboxProgram(path string) (File, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return File{}, fmt.Errorf("%w; install the package busybox-static", err)
	}
	return File{Name: "bin/busybox", Mode: 0o755, Content: program}, nil
}

// BusyboxFiles is a root file system of the host's static busybox with a link
// for each of its applets.
func BusyboxFiles() ([]File, error) { return BusyboxFilesOf(Busybox) }

// BusyboxFilesOf is BusyboxFiles with the same busybox for another architecture.
func BusyboxFilesOf(busybox string) ([]File, error) {
	program, err := busyboxProgram(busybox)
	if err != nil {
		return nil, err
	}
	list, err := exec.Command(Busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", Busybox, err)
	}
	files := []File{
		{Name: "bin/", Mode: 0o755},
		{Name: "etc/", Mode: 0o755},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")},
		{Name: "etc/group", Mode: 0o644, Content: []byte("root:x:0:\nnobody:x:65534:\n")},
		program,
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			files = append(files, File{Name: "bin/" + applet, Target: "busybox", Mode: 0o777})
		}
	}
	return files, nil
}
