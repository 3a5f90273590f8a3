package importlaw

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// requirement is a line of go.mod: a module, and whether it is marked as indirect.
var requirement = regexp.MustCompile(`^\s*(?:require\s+)?([a-z0-9.-]+\.[a-z]+/\S+) v\S+( // indirect)?$`)

// TestGoModTellsDirectFromIndirect: a module that brink's own files import is no
// dependency of others alone, and one that none imports is.
func TestGoModTellsDirectFromIndirect(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	indirect := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if m := requirement.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			indirect[m[1]] = m[2] != ""
		}
	}
	imported := map[string]bool{}
	for _, path := range allImports(t) {
		imported[moduleOf(path, indirect)] = true
	}
	for module, isIndirect := range indirect {
		switch {
		case imported[module] && isIndirect:
			t.Errorf("go.mod: brink imports %s: take the comment \"indirect\" away", module)
		case !imported[module] && !isIndirect:
			t.Errorf("go.mod: nothing of brink's imports %s: mark it as indirect", module)
		}
	}
	if len(indirect) < 100 || len(imported) < 20 {
		t.Errorf("%d modules required, %d imported: the reading is broken", len(indirect), len(imported))
	}
}

// moduleOf is the required module that a package is in, empty for the standard library
// and brink's own.
func moduleOf(imported string, required map[string]bool) string {
	for ; imported != "."; imported = filepath.Dir(imported) {
		if _, ok := required[imported]; ok {
			return imported
		}
	}
	return ""
}

// allImports are those of all Go files of the module, tests and tools too. Directories
// with a go.mod of their own are other modules.
func allImports(t *testing.T) []string {
	t.Helper()
	var out []string
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		_, noModule := os.Stat(filepath.Join(path, "go.mod"))
		if d.IsDir() && path != root && (noModule == nil || strings.HasPrefix(d.Name(), ".")) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		out = append(out, source{file: file}.imports()...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
