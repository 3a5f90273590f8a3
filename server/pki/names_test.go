package pki

import (
	"testing"

	"brink/internal/layout"
)

// TestFilesAreNamed: uninstall removes from the directory only what is in the
// layout's table of names.
func TestFilesAreNamed(t *testing.T) {
	t.Parallel()
	var files []string
	for _, name := range authorityNames {
		files = append(files, name+".crt", name+".key")
	}
	for _, leaf := range leaves {
		files = append(files, leaf.name+".crt", leaf.name+".key")
	}
	for _, file := range append(files, "service.key") {
		if layout.DataName("server/tls/"+file) != layout.File {
			t.Errorf("%s is in no table of names: uninstall would leave it", file)
		}
	}
}
