package images_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"brink/runtime/images"
	"brink/runtime/testnode"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(testnode.Patience); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen", what)
		}
	}
}

// TestDirectoryOfARunningNode: archives come and go while the node runs. One that is being
// written is left alone until it is whole.
func TestDirectoryOfARunningNode(t *testing.T) {
	i := newImports(t)
	d := running(t, i.Store)
	<-d.Arrived()
	i.put("1.tar", "test.local/one:1")
	i.WaitPinned("test.local/one:1", true)

	whole, err := os.ReadFile(testnode.WriteArchive(t, "test.local/two:1", testnode.Busybox(t, "two")))
	if err != nil {
		t.Fatal(err)
	}
	slow, err := os.Create(filepath.Join(i.dir, "2.tar"))
	if err != nil {
		t.Fatal(err)
	}
	half := len(whole) / 2
	if _, err := slow.Write(whole[:half]); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // longer than a file needs to settle
	if known := i.Stamps(); len(known) != 1 || d.Warnings() != nil {
		t.Errorf("while the second is written the record knows %v, warnings: %v", known, d.Warnings())
	}
	if _, err := slow.Write(whole[half:]); err != nil {
		t.Fatal(err)
	}
	slow.Close()
	i.WaitPinned("test.local/two:1", true)

	// A writer that renames, over an archive that was imported.
	next := filepath.Join(t.TempDir(), "next.tar")
	testnode.CreateArchive(t, next, "test.local/one:2")
	if err := os.Rename(next, filepath.Join(i.dir, "1.tar")); err != nil {
		t.Fatal(err)
	}
	i.WaitPinned("test.local/one:2", true)
	i.WaitPinned("test.local/one:1", false)
	if err := os.Remove(filepath.Join(i.dir, "2.tar")); err != nil {
		t.Fatal(err)
	}
	i.WaitPinned("test.local/two:1", false)
}

// TestBrokenArchiveReplaced: what cannot be read is told, the images of the archive before
// it stay, and a whole one under the same name is taken.
func TestBrokenArchiveReplaced(t *testing.T) {
	i := newImports(t)
	path := i.put("1.tar", "test.local/one:1")
	d := running(t, i.Store)
	i.WaitPinned("test.local/one:1", true)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a warning", func() bool { return d.Warnings() != nil })
	if text := d.Warnings().Error(); !strings.Contains(text, path) || strings.Contains(text, "\n") {
		t.Errorf("the warning is %q", text)
	}
	i.WaitPinned("test.local/one:1", true)
	testnode.CreateArchive(t, path, "test.local/one:2")
	i.WaitPinned("test.local/one:2", true)
	waitFor(t, "the end of the warning", func() bool { return d.Warnings() == nil })
}

// TestListOfImages: what a list names is pulled and pinned, while archives are taken
// beside it, and unpinned when the list goes.
func TestListOfImages(t *testing.T) {
	n := testnode.New(t)
	host := testnode.ServeRegistry(t, nil, "team/app", nil)
	text := fmt.Sprintf("mirrors:\n  list.test: {endpoint: [\"http://%s\"]}\n", host)
	if err := os.WriteFile(n.Config.RegistriesFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() { n.Stop() })
	i := imports{Node: n, Store: storeOf(n), t: t, dir: n.Config.Layout.Images()}
	d := running(t, i.Store)
	<-d.Arrived()
	list := filepath.Join(i.dir, "list.txt")
	if err := os.WriteFile(list, []byte("# the shop's\nlist.test/team/app:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	i.WaitPinned("list.test/team/app:1", true)
	if err := os.WriteFile(list, []byte("list.test/team/app:1\n"+deadAddress(t)+"/away:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a warning", func() bool { return d.Warnings() != nil })
	if text := d.Warnings().Error(); !strings.Contains(text, "/away:1") {
		t.Errorf("the warning is %q", text)
	}
	i.put("1.tar", "test.local/one:1")
	i.WaitPinned("test.local/one:1", true)
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	i.WaitPinned("list.test/team/app:1", false)
}

// TestPinnedByHand: an image that was imported by hand is pinned, stays so when an archive
// that holds it too goes, and is released by another import.
func TestPinnedByHand(t *testing.T) {
	i := newImports(t)
	path := i.put("1.tar", "test.local/one:1")
	hand := filepath.Join(t.TempDir(), "hand.tar")
	testnode.CreateArchive(t, hand, "test.local/one:1")
	byHand := func(pin bool) {
		t.Helper()
		if _, err := i.Import(i.Context(), hand, pin, silent); err != nil {
			t.Fatal(err)
		}
	}
	i.run()
	byHand(true)
	byHand(false)
	i.WaitPinned("test.local/one:1", true) // for the directory
	byHand(true)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	i.run()
	i.WaitPinned("test.local/one:1", true)
	byHand(false)
	i.WaitPinned("test.local/one:1", false)
}

// random is an image with a layer that cannot be compressed.
func random(t *testing.T, size int) v1.Image {
	t.Helper()
	layer := make([]byte, size)
	source := rand.NewChaCha8([32]byte{7})
	_, _ = io.ReadFull(source, layer)
	image, err := mutate.AppendLayers(testnode.Busybox(t, "random"), static.NewLayer(tarOf(t, layer), types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func tarOf(t *testing.T, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := w.WriteHeader(&tar.Header{Name: "content", Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg})
	_, err2 := w.Write(content)
	if err := errors.Join(err, err2, w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestDiskIsTooSmall: an import for which there is no room is refused before it writes, or
// before it unpacks, and gives back what it has written.
func TestDiskIsTooSmall(t *testing.T) {
	n := testnode.New(t)
	root := n.Config.Layout.ContainerdRoot()
	if err := errors.Join(os.MkdirAll(root, 0o700), syscall.Mount("test", root, "tmpfs", 0, "size=64m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(root, 0) })
	n.Start()
	t.Cleanup(func() { n.Stop() })
	for size, stage := range map[int]string{40 << 20: "before it unpacks", 80 << 20: "before it writes"} {
		path := testnode.WriteArchive(t, "test.local/large:1", random(t, size))
		_, err := storeOf(n).Import(n.Context(), path, true, silent)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "it needs ") {
			t.Errorf("%s: got %v", stage, err)
		}
		waitFor(t, "giving back of space", func() bool { return images.FreeSpace(root) > 50<<20 })
	}
}
