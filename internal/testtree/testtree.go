// Package testtree makes and reads trees of files for tests.
package testtree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Make makes files below a new directory, as Fill does.
func Make(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	Fill(t, root, files)
	return root
}

// Fill makes files below root; a name that ends in a slash is a directory,
// content "->x" a link to x.
func Fill(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch target, link := strings.CutPrefix(content, "->"); {
		case err != nil:
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		case link:
			err = os.Symlink(target, path)
		default:
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Read returns the contents of the files in dir, by their names. It does not look into
// directories below dir: there must be none.
func Read(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}
