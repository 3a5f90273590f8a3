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
