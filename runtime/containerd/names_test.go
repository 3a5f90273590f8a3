package containerd

import (
	"path"
	"testing"

	"brink/internal/layout"
	"brink/runtime/images"
)

// TestFilesAreNamed: uninstall removes the files that the layout names, and no others.
func TestFilesAreNamed(t *testing.T) {
	t.Parallel()
	for _, name := range []string{inUseFile, images.UncheckedFile} {
		if layout.DataName(path.Join("agent/containerd", name)) != layout.File {
			t.Errorf("%s is in no table of names: uninstall would leave it", name)
		}
	}
}
