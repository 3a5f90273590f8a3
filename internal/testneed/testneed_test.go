package testneed

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/internal/testprocess"
)

// otherKernel are the files with tests that do not run on every kernel.
var otherKernel = []string{"agent/cgroups/cgroups_test.go"}

// TestMissing looks at the verdict in a process of its own: a failure here would be
// this test's.
func TestMissing(t *testing.T) {
	if testprocess.Argument() != "" {
		Missing(t, "a thing")
		t.Fatal("Missing returned")
	}
	t.Parallel()
	for _, set := range []string{"", "1"} {
		cmd := testprocess.Again(t, "missing")
		cmd.Args = append(cmd.Args, "-test.v")
		cmd.Env = append(cmd.Env, Variable+"="+set)
		out, err := cmd.CombinedOutput()
		want, fails := "--- SKIP: TestMissing", false
		if set != "" {
			want, fails = "--- FAIL: TestMissing", true
		}
		if (err != nil) != fails || !strings.Contains(string(out), want) || !strings.Contains(string(out), "this test needs a thing") {
			t.Errorf("with %s=%q: %v\n%s", Variable, set, err, out)
		}
	}
}

// TestNoTestSkipsByItself keeps the law of this package in the whole repository.
func TestNoTestSkipsByItself(t *testing.T) {
	t.Parallel()
	files := 0
	for path, file := range repository(t) {
		files++
		for _, problem := range skips(path, file) {
			t.Error(problem)
		}
	}
	if files < 100 {
		t.Errorf("only %d files were looked at", files)
	}
}

func TestSkipsAreFound(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]int{
		`func f() { t.Skip("no root") }`:                      1,
		`func f() { b.Skipf("no %s", "root"); tb.SkipNow() }`: 2,
		`func f() { if testing.Short() { return } }`:          1,
		`func f() { testneed.OtherKernel(t, "x") }`:           1,
		`func f() { testneed.Root(t); t.Fatal("skip") }`:      0,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+source, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := skips("x_test.go", file); len(got) != want {
			t.Errorf("%s: %q", source, got)
		}
	}
}

// skips returns what in a file lets a test pass that did not run.
func skips(path string, file *ast.File) (problems []string) {
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		fun, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		from, _ := fun.X.(*ast.Ident)
		switch name := fun.Sel.Name; {
		case name == "Skip", name == "Skipf", name == "SkipNow":
			problems = append(problems, fmt.Sprintf("%s calls %s: say what it needs by internal/testneed", path, name))
		case name == "Short" && from != nil && from.Name == "testing":
			problems = append(problems, path+" calls testing.Short: a test runs or is not there")
		case name == "OtherKernel" && !slices.Contains(otherKernel, path):
			problems = append(problems, path+" calls testneed.OtherKernel and is not in the list of those that may")
		}
		return true
	})
	return problems
}

// repository parses every file that imports testing.
func repository(t *testing.T) map[string]*ast.File {
	t.Helper()
	const root = "../.."
	files := map[string]*ast.File{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, root+"/")
		if entry.IsDir() && (entry.Name() == "vendor" || strings.HasPrefix(entry.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, ".go") || name == "internal/testneed/testneed.go" {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err == nil && slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing"` }) {
			files[name] = file
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
