package images

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"brink/internal/testdisk"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// oneBlob is a node that has one blob.
type oneBlob struct {
	content.Store
	digest digest.Digest
}

func (o oneBlob) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	if d != o.digest {
		return content.Info{}, errdefs.ErrNotFound
	}
	return content.Info{Digest: d}, nil
}

// archiveOf is a tar with 100 KiB in each of these entries.
func archiveOf(t *testing.T, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range names {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: 100 << 10, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 100<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestHasRoomFor: on a full disk only what certainly needs more is refused.
func TestHasRoomFor(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	testdisk.MountAt(t, disk, "tmpfs", 0, "size=64k")
	known, other := digest.FromString("known"), digest.FromString("other")
	blob := func(d digest.Digest) string { return "blobs/sha256/" + d.Encoded() }
	for name, c := range map[string]struct {
		archive []byte
		fits    bool
	}{
		"the node has it":                  {archiveOf(t, blob(known)), true},
		"the node does not have it":        {archiveOf(t, blob(known), blob(other)), false},
		"docker's, without digests":        {archiveOf(t, "a/layer.tar"), false},
		"compressed, as the node may have": {write(t, openGzipWriter, archiveOf(t, blob(known))), true},
		"nothing":                          {archiveOf(t), true},
	} {
		path := filepath.Join(t.TempDir(), "app.tar")
		if err := os.WriteFile(path, c.archive, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		err = (&importer{root: disk}).hasRoomFor(t.Context(), f, oneBlob{digest: known})
		if (err == nil) != c.fits {
			t.Errorf("%s: %v", name, err)
		}
		if at, err := f.Seek(0, io.SeekCurrent); c.fits && (at != 0 || err != nil) {
			t.Errorf("%s: the archive is read from %d on, %v", name, at, err)
		}
	}
}

// TestNewContent: of docker's archives only the largest entry is certain.
func TestNewContent(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.tar")
	if err := os.WriteFile(path, archiveOf(t, "a/layer.tar", "b/layer.tar", "c/layer.tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := newContent(t.Context(), f, oneBlob{}); err != nil || got != (estimate{known: 100 << 10, guessed: 200 << 10}) {
		t.Errorf("%+v, %v", got, err)
	}
}
