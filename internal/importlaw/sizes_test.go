package importlaw

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
)

// A file is read in one sitting and a function on one screen, those of tests too: a long table
// is a variable of its own.
const (
	mostFileLines     = 400
	mostFunctionLines = 50
)

func TestSizes(t *testing.T) {
	t.Parallel()
	root, seen := filepath.Join("..", ".."), 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{".git", ".build", "bin", "dist"}, d.Name()) {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(path) != ".go" {
			return nil
		}
		seen++
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if lines := fset.Position(file.FileEnd).Line; lines > mostFileLines+1 {
			t.Errorf("%s has %d lines, more than %d: split it by idea", path, lines, mostFileLines)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				if lines := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; lines > mostFunctionLines {
					t.Errorf("%s: %s has %d lines, more than %d", path, f.Name.Name, lines, mostFunctionLines)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 300 {
		t.Errorf("only %d files seen: the walk is broken", seen)
	}
}
