package importlaw

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// TestHarness keeps what the end-to-end tests and the benchmark share fit for both:
// package testing would bring its flags into the benchmark, and of brink the harness
// knows the paths and names that everyone knows, not the code that it tests.
func TestHarness(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("../../e2e/machine/*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		seen++
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imported := range (source{file: file}).imports() {
			if imported == "testing" || within(imported, "brink") && !within(imported, "brink/internal") {
				t.Errorf("%s: imports %s", path, imported)
			}
		}
	}
	if seen == 0 {
		t.Fatal("there is no harness: the path is wrong")
	}
}
