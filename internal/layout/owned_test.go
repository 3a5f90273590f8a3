package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// elsewhere are literals of others that are the same as a name of this package.
var elsewhere = []struct{ dir, literal, why string }{
	{"internal/wire/clusterconfig", "cluster.json", "a key in a ConfigMap"},
}

// free are directories whose code is no part of the binary, or this package itself.
var free = []string{"internal/layout", "internal/test", "network/testnet", "runtime/testnode", "runtime/payload/build", "e2e", "docs", "scripts", ".git", ".build", "bin"}

// TestNobodyElseNamesFiles: nothing else joins a path of its own below the roots. A file
// that has no name here would stay after an uninstall.
func TestNobodyElseNamesFiles(t *testing.T) {
	t.Parallel()
	seen := 0
	eachSource(t, func(dir string, file *ast.File, at func(ast.Node) string) {
		seen++
		for _, problem := range problemsIn(dir, file, at) {
			t.Error(problem)
		}
	})
	if seen < 100 {
		t.Fatalf("only %d files seen: the walk is broken", seen)
	}
}

func TestProblemsAreSeen(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		`filepath.Join(l.Agent(), "x")`:         true,
		`filepath.Join(cfg.Layout.Run(), name)`: true,
		`l.DB() + "/x"`:                         true,
		`layout.ConfigDir + "/x.yaml"`:          true,
		`filepath.Join(dir, "state.db")`:        true,
		`"server-ca.crt"`:                       true,
		`"agent/pod-logs"`:                      true,
		`".overlay-probe-"`:                     true,
		`"/var/lib/brink/agent/made"`:           true,
		`filepath.Join(l.Images(), e.Name())`:   false,
		`filepath.Join(dir, "x")`:               false,
		`"/etc/resolv.conf"`:                    false,
		`"brink/agent/images"`:                  false,
		`"lock"`:                                false,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\n\nvar x = "+code+"\n", 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := problemsIn("x", file, func(ast.Node) string { return "" }); len(got) > 0 != want {
			t.Errorf("%s: got %q", code, got)
		}
	}
}

func problemsIn(dir string, file *ast.File, at func(ast.Node) string) []string {
	var out []string
	imports := map[ast.Node]bool{}
	for _, i := range file.Imports {
		imports[i.Path] = true
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && !imports[n] && isOurs(dir, text) {
				out = append(out, at(n)+": the name "+n.Value+" is package layout's: use its method or constant")
			}
		case *ast.CallExpr:
			if isJoin(n) && slices.ContainsFunc(n.Args, isRoot) && slices.ContainsFunc(n.Args, isName) {
				out = append(out, at(n)+": joins a path of its own onto one of package layout: give it a method there")
			}
		case *ast.BinaryExpr:
			if n.Op == token.ADD && isRoot(n.X) && isName(n.Y) {
				out = append(out, at(n)+": adds to a path of package layout: give it a method there")
			}
		}
		return true
	})
	return out
}

// isOurs reports whether a literal is, or contains, a name of the tables that nothing
// else would have.
func isOurs(dir, text string) bool {
	for _, e := range elsewhere {
		if e.dir == dir && e.literal == text {
			return false
		}
	}
	for _, root := range []string{DefaultData + "/", defaultRun + "/", ConfigDir + "/"} {
		if strings.HasPrefix(text, root) && !strings.ContainsAny(text, " \n") {
			return true
		}
	}
	if path.IsAbs(text) {
		return false
	}
	if strings.Contains(text, "/") && (DataName(text) != Foreign || RunName(text) != Foreign) {
		return true
	}
	return slices.ContainsFunc(strings.Split(text, "/"), distinct)
}

// distinct reports whether a name is in the tables and not a word that others use too.
func distinct(component string) bool {
	for _, n := range slices.Concat(dataNames, runNames, kubeletNames) {
		base := path.Base(n.pattern)
		prefix, _, isPattern := strings.Cut(base, "*")
		prefix = strings.TrimSuffix(prefix, "[0-9]")
		if strings.ContainsAny(prefix, ".-_") && (component == base || isPattern && component == prefix) {
			return true
		}
	}
	return slices.Contains(append(pairs, "tmpmounts"), component)
}

func isJoin(call *ast.CallExpr) bool {
	f, ok := call.Fun.(*ast.SelectorExpr)
	return ok && f.Sel.Name == "Join" && (isIdent(f.X, "filepath") || isIdent(f.X, "path"))
}

// isRoot reports whether an expression is a path of package layout.
func isRoot(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CallExpr:
		f, ok := e.Fun.(*ast.SelectorExpr)
		if !ok || len(e.Args) > 0 {
			return false
		}
		method, ok := reflect.TypeFor[Layout]().MethodByName(f.Sel.Name)
		return ok && method.Type.Out(0).Kind() == reflect.String
	case *ast.SelectorExpr:
		return isIdent(e.X, "layout") && (e.Sel.Name == "ConfigDir" || e.Sel.Name == "DefaultData")
	}
	return false
}

// isName reports whether an expression may be a name that the code chooses. What a call
// returns, such as a directory entry's name, was found on the disk.
func isName(e ast.Expr) bool {
	switch e.(type) {
	case *ast.BasicLit, *ast.Ident, *ast.SelectorExpr, *ast.BinaryExpr:
		return !isRoot(e)
	}
	return false
}

func isIdent(e ast.Expr, name string) bool {
	i, ok := e.(*ast.Ident)
	return ok && i.Name == name
}

// eachSource visits what is linked into the binary.
func eachSource(t *testing.T, visit func(dir string, file *ast.File, at func(ast.Node) string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() && slices.ContainsFunc(free, func(f string) bool { return rel == f || f == "internal/test" && strings.HasPrefix(rel, f) }) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(filepath.Dir(rel)), file, func(n ast.Node) string {
			return strings.TrimPrefix(set.Position(n.Pos()).String(), root+"/")
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
