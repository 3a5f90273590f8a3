package images

import (
	"slices"
	"strings"
	"testing"

	"brink/internal/layout"
)

func TestSortImages(t *testing.T) {
	t.Parallel()
	got := sortImages([]Stored{
		{Name: "r:5000/b:1", Digest: "sha256:02"}, {Name: "r:5000/b@sha256:02", Digest: "sha256:02"},
		{Name: "r:5000/a@sha256:02", Digest: "sha256:02"}, {Name: "r:5000/b@sha256:03", Digest: "sha256:03"},
	})
	var list []string
	for _, i := range got {
		list = append(list, i.Name)
	}
	if want := []string{"r:5000/a@sha256:02", "r:5000/b:1", "r:5000/b@sha256:03"}; !slices.Equal(list, want) {
		t.Errorf("got %q, want %q", list, want)
	}
}
func TestListWithoutContainerd(t *testing.T) {
	t.Parallel()
	a := Store{Layout: layout.At(t.TempDir(), t.TempDir())}
	if list, err := a.List(t.Context()); err == nil {
		t.Errorf("got %v", list)
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
