package runtime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestList lists what a real containerd has: images of an archive, and the pause
// image, which must never go.
func TestList(t *testing.T) {
	n := newNode(t)
	n.start()
	t.Cleanup(func() { n.stop() })
	path := filepath.Join(t.TempDir(), "1.tar")
	archive(t, path, "test.local/one:1")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	a := Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}
	imported, err := a.Import(n.context(), path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := a.List(n.context())
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) StoredImage {
		i := slices.IndexFunc(list, func(s StoredImage) bool { return s.Name == name })
		if i < 0 {
			t.Fatalf("%s is not in %v", name, list)
		}
		return list[i]
	}
	one := find("test.local/one:1")
	if one.Digest != imported[0].Digest || one.Pinned {
		t.Errorf("got %+v, want digest %s, not pinned", one, imported[0].Digest)
	}
	if one.Size <= 0 || one.Size > 2*info.Size() {
		t.Errorf("size is %d, the archive has %d", one.Size, info.Size())
	}
	if pause := find(n.cfg.PauseImage); !pause.Pinned {
		t.Errorf("got %+v, want it pinned", pause)
	}
	for _, s := range list {
		if strings.HasPrefix(s.Name, "sha256:") {
			t.Errorf("%s is containerd's own name", s.Name)
		}
	}
}

func TestListWithoutContainerd(t *testing.T) {
	t.Parallel()
	a := Archives{Socket: filepath.Join(t.TempDir(), "nobody.sock")}
	if list, err := a.List(t.Context()); err == nil {
		t.Errorf("got %v", list)
	}
}

// TestNamesTellWhatWasImported: an image is its owner's who brought it, also when it
// was pulled before or is pulled later.
func TestNamesTellWhatWasImported(t *testing.T) {
	n := newNode(t)
	n.start()
	t.Cleanup(func() { n.stop() })
	n.bringByPull("test.local/pulled:1", manyFiles(t, "pulled"))
	n.bringByPull("test.local/both:1", manyFiles(t, "both"))
	n.bringByImagesImport("test.local/both:1", manyFiles(t, "both"))
	n.bringByImagesImport("test.local/images:1", manyFiles(t, "images"))
	n.bringByTransfer("test.local/transfer:1", manyFiles(t, "transfer"))
	n.bringByClient("test.local/client:1", manyFiles(t, "client"))
	names, err := Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}.Names(n.context())
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]bool{"pulled": false, "both": true, "images": true, "transfer": true, "client": true} {
		i := slices.IndexFunc(names, func(i NamedImage) bool { return i.Name == "test.local/"+ref+":1" })
		if i < 0 || names[i].Imported != want || !strings.HasPrefix(names[i].ID, "sha256:") {
			t.Errorf("%s is %+v, want it imported: %t", ref, names, want)
		}
	}
}

func TestWholeName(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"busybox":               "docker.io/library/busybox:latest",
		"registry.test:5/app:1": "registry.test:5/app:1",
		"registry.test/app:1@sha256:" + strings.Repeat("0", 64): "registry.test/app@sha256:" + strings.Repeat("0", 64),
		"No Name": "No Name",
	} {
		if got := WholeName(given); got != want {
			t.Errorf("%s: got %s, want %s", given, got, want)
		}
	}
}
