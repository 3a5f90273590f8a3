package images_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/runtime/images"
	"brink/runtime/testnode"
)

// TestList lists what a real containerd has: images of an archive, and the pause
// image, which must never go.
func TestList(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	t.Cleanup(func() { n.Stop() })
	path := filepath.Join(t.TempDir(), "1.tar")
	testnode.CreateArchive(t, path, "test.local/one:1")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	a := storeOf(n)
	imported, err := a.Import(n.Context(), path, false, silent)
	if err != nil {
		t.Fatal(err)
	}
	list, err := a.List(n.Context())
	if err != nil {
		t.Fatal(err)
	}
	find := func(name string) images.Stored {
		i := slices.IndexFunc(list, func(s images.Stored) bool { return s.Name == name })
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
	if pause := find(n.Config.PauseImage); !pause.Pinned {
		t.Errorf("got %+v, want it pinned", pause)
	}
	for _, s := range list {
		if strings.HasPrefix(s.Name, "sha256:") {
			t.Errorf("%s is containerd's own name", s.Name)
		}
	}
}

// TestNamesTellWhatWasImported: an image is its owner's who brought it, also when it
// was pulled before or is pulled later.
func TestNamesTellWhatWasImported(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	t.Cleanup(func() { n.Stop() })
	n.Pull("test.local/pulled:1", testnode.ManyFiles(t, "pulled"))
	n.Pull("test.local/both:1", testnode.ManyFiles(t, "both"))
	n.ImportByBrink("test.local/both:1", testnode.ManyFiles(t, "both"))
	n.ImportByBrink("test.local/images:1", testnode.ManyFiles(t, "images"))
	n.ImportByTransfer("test.local/transfer:1", testnode.ManyFiles(t, "transfer"))
	n.ImportByClient("test.local/client:1", testnode.ManyFiles(t, "client"))
	names, err := storeOf(n).Names(n.Context())
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]bool{"pulled": false, "both": true, "images": true, "transfer": true, "client": true} {
		i := slices.IndexFunc(names, func(i images.Named) bool { return i.Name == "test.local/"+ref+":1" })
		if i < 0 || names[i].Imported != want || !strings.HasPrefix(names[i].ID, "sha256:") {
			t.Errorf("%s is %+v, want it imported: %t", ref, names, want)
		}
	}
}
