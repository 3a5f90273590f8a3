package importlaw

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is a Go file of the binary.
type source struct {
	dir  string // of its package, below the module's root; empty for main
	path string
	file *ast.File
}

// outside are directories with programs of their own.
var outside = []string{"e2e", "docs", "scripts", "runtime/payload/build", ".git", ".build", "bin"}

// eachFile visits every Go file of the module that is not a test, below the
// law: e2e, docs and build tools are not part of the binary.
func eachFile(t *testing.T, visit func(source)) {
	t.Helper()
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(outside, rel) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(rel))
		if dir == "." {
			dir = ""
		}
		seen++
		visit(source{dir, path, file})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 20 {
		t.Fatalf("only %d files seen: the walk is broken", seen)
	}
}

// imports are the paths that a file imports.
func (s source) imports() []string {
	var out []string
	for _, spec := range s.file.Imports {
		out = append(out, importPath(spec))
	}
	return out
}

func importPath(spec *ast.ImportSpec) string {
	imported, _ := strconv.Unquote(spec.Path.Value)
	return imported
}

var version = regexp.MustCompile(`^v[0-9]+$`)

// names are the imports of a file by the names under which it knows them.
func (s source) names() map[string]string {
	out := map[string]string{}
	for _, spec := range s.file.Imports {
		imported := importPath(spec)
		name := path.Base(imported)
		if version.MatchString(name) {
			name = path.Base(path.Dir(imported))
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		out[name] = imported
	}
	return out
}

// use is a name that a file selects: of a package, or of a value if in is empty.
type use struct{ in, name string }

// uses are the names that a part of the file selects. A variable with the name of an
// import hides it.
func (s source) uses(part ...ast.Node) []use {
	names := s.names()
	var out []use
	for _, n := range part {
		ast.Inspect(n, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok {
				in := ""
				if x, ok := selector.X.(*ast.Ident); ok && x.Obj == nil {
					in = names[x.Name]
				}
				out = append(out, use{in, selector.Sel.Name})
			}
			return true
		})
	}
	return out
}

// calls are the functions of the same package that a part of it calls.
func calls(part ...ast.Node) []string {
	var out []string
	for _, n := range part {
		ast.Inspect(n, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if f, ok := call.Fun.(*ast.Ident); ok {
					out = append(out, f.Name)
				}
			}
			return true
		})
	}
	return out
}
