package importlaw

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestOnlyMainEndsTheProcess also finds the calls that log first.
func TestOnlyMainEndsTheProcess(t *testing.T) {
	t.Parallel()
	eachFile(t, func(s source) {
		for _, problem := range ends(s) {
			t.Errorf("%s: %s: only main ends the process, return an error", s.path, problem)
		}
	})
}

var fatalMethod = regexp.MustCompile(`^Fatal(f|ln|Fn|Depth)?$`)

// ends returns what in a file may end the process.
func ends(s source) []string {
	var out []string
	for name, in := range s.names() {
		if name == "." {
			out = append(out, "imports "+in+" without a name, so that its functions are not seen")
		}
	}
	if s.dir == "" || isForTests(s.dir) {
		return out
	}
	for _, u := range s.uses(s.file) {
		if u.in == "" && fatalMethod.MatchString(u.name) {
			out = append(out, "calls a method "+u.name)
		}
		for _, e := range exits {
			if u.in == e.in && regexp.MustCompile(e.names).MatchString(u.name) && !slices.Contains(e.where, s.dir) {
				out = append(out, "uses "+u.in+"."+u.name)
			}
		}
	}
	return out
}

// isForTests tells packages that only tests import: see the rules for imports.
func isForTests(dir string) bool {
	return slices.ContainsFunc(only, func(r onlyRule) bool { return r.outside == "brink/"+dir && r.isForTests() })
}

func TestGlobalsAreSetInOnePlace(t *testing.T) {
	t.Parallel()
	eachFile(t, func(s source) {
		if isForTests(s.dir) {
			return
		}
		for _, u := range s.uses(s.file) {
			for _, g := range globals {
				if g.covers(u) && !slices.ContainsFunc(g.where, func(p string) bool { return allowed(s.dir, p) }) {
					t.Errorf("%s: uses %s.%s: %s, see the table of globals", s.path, u.in, u.name, g.why)
				}
			}
		}
	})
}

func isGlobal(u use) bool {
	return slices.ContainsFunc(globals, func(g globalRule) bool { return g.covers(u) })
}

// TestNothingIsSetAtImport: a package that is only linked changes nothing.
func TestNothingIsSetAtImport(t *testing.T) {
	t.Parallel()
	packages := map[string][]source{}
	eachFile(t, func(s source) { packages[s.dir] = append(packages[s.dir], s) })
	for _, files := range packages {
		for _, problem := range setAtImport(files) {
			t.Error(problem)
		}
	}
	for _, i := range initialisers {
		if len(initialisersOf(packages[i.dir])) == 0 {
			t.Errorf("%s has no init function any more: take it out of the table", i.dir)
		}
	}
}

// setAtImport returns what the files of a package set while it is initialised.
func setAtImport(files []source) []string {
	var out []string
	for _, s := range initialisersOf(files) {
		if !slices.ContainsFunc(initialisers, func(i initialiser) bool { return i.dir == s.dir }) {
			out = append(out, s.path+": has an init function: let who needs it call it")
		}
	}
	setters := settersOf(files)
	for _, s := range files {
		for _, decl := range s.file.Decls {
			vars, ok := decl.(*ast.GenDecl)
			if !ok || vars.Tok != token.VAR {
				continue
			}
			values := evaluated(vars)
			if slices.ContainsFunc(s.uses(values...), isGlobal) || slices.ContainsFunc(calls(values...), func(f string) bool { return setters[f] }) {
				out = append(out, fmt.Sprintf("%s: a variable is initialised by setting what the process has one of", s.path))
			}
		}
	}
	return out
}

func initialisersOf(files []source) []source {
	return slices.DeleteFunc(slices.Clone(files), func(s source) bool {
		return !slices.ContainsFunc(s.file.Decls, func(d ast.Decl) bool {
			f, ok := d.(*ast.FuncDecl)
			return ok && f.Recv == nil && f.Name.Name == "init"
		})
	})
}

// settersOf are the functions of a package that set a global, or call one that does.
func settersOf(files []source) map[string]bool {
	out := map[string]bool{}
	for before := -1; len(out) > before; {
		before = len(out)
		for _, s := range files {
			for _, decl := range s.file.Decls {
				f, ok := decl.(*ast.FuncDecl)
				if ok && f.Recv == nil && (slices.ContainsFunc(s.uses(f), isGlobal) || slices.ContainsFunc(calls(f), func(name string) bool { return out[name] })) {
					out[f.Name.Name] = true
				}
			}
		}
	}
	return out
}

// evaluated returns the values that variables get while the package is initialised,
// without the bodies of functions that only somebody else calls.
func evaluated(vars *ast.GenDecl) []ast.Node {
	var out []ast.Node
	for _, spec := range vars.Specs {
		for _, value := range spec.(*ast.ValueSpec).Values {
			called := map[ast.Expr]bool{}
			ast.Inspect(value, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					called[n.Fun] = true
				case *ast.FuncLit:
					if !called[n] {
						n.Body = &ast.BlockStmt{}
					}
				}
				return true
			})
			out = append(out, value)
		}
	}
	return out
}

// TestOnlyRemovetreeRemovesTrees: os.RemoveAll empties what is mounted below.
func TestOnlyRemovetreeRemovesTrees(t *testing.T) {
	t.Parallel()
	eachFile(t, func(s source) {
		// Test helpers remove what they made; the other one names what it replaces.
		isFree := isForTests(s.dir) || s.dir == "internal/removetree"
		if !isFree && slices.Contains(s.uses(s.file), use{"os", "RemoveAll"}) {
			t.Errorf("%s: calls os.RemoveAll, which goes through mounts: use internal/removetree", s.path)
		}
	})
}

// parsed is a file of package dir with these imports and this text.
func parsed(t *testing.T, dir, imports, text string) source {
	t.Helper()
	var block strings.Builder
	for _, i := range strings.Split(imports, ", ") {
		if i != "" {
			fmt.Fprintf(&block, "import %s\n", i)
		}
	}
	file, err := parser.ParseFile(token.NewFileSet(), dir+".go", "package x\n"+block.String()+text, 0)
	if err != nil {
		t.Fatal(err)
	}
	return source{dir, dir + ".go", file}
}

func TestEndsSeesEachWay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dir, imports, text string
		want               bool
	}{
		{"agent", `"os"`, `func f() { os.Exit(1) }`, true},
		{"agent", `"os"`, `var exit = os.Exit`, true},
		{"agent", `std "os"`, `func f() { std.Exit(1) }`, true},
		{"agent", `. "os"`, `func f() { Exit(1) }`, true},
		{"", `"os"`, `func f() { os.Exit(1) }`, false},
		{"agent", `"brink/internal/os"`, `func f() { os.Exit(1) }`, false},
		{"agent", `"os"`, `func f(os door) { os.Exit(1) }`, false},
		{"agent", `"os"`, `// os.Exit(1)`, false},
		{"agent", `"syscall"`, `func f() { syscall.Exit(1) }`, true},
		{"agent", `"log"`, `func f() { log.Fatalln(1) }`, true},
		{"agent", ``, `func f(l log) { l.Fatalf("x") }`, true},
		{"agent", `"github.com/sirupsen/logrus"`, `func f() { logrus.Fatal(1) }`, true},
		{"agent", `"github.com/sirupsen/logrus"`, `var l = logrus.FatalLevel`, false},
		{"agent", `"k8s.io/klog/v2"`, `func f() { klog.Fatal(1) }`, true},
		{"agent", `"k8s.io/klog/v2"`, `func f() { klog.ExitDepth(1) }`, true},
		{"agent", `"k8s.io/klog/v2"`, `func f() { klog.ErrorS(nil, "x") }`, false},
		{"agent", `"flag"`, `var f = flag.NewFlagSet("x", flag.ExitOnError)`, true},
		{"cmd", `u "k8s.io/kubectl/pkg/cmd/util"`, `func f() { u.CheckErr(nil) }`, false},
		{"agent", `u "k8s.io/kubectl/pkg/cmd/util"`, `func f() { u.CheckErr(nil) }`, true},
		{"internal/testdisk", ``, `func f(t tb) { t.Fatal(1) }`, false},
	} {
		if got := len(ends(parsed(t, c.dir, c.imports, c.text))) > 0; got != c.want {
			t.Errorf("%q, %s, %s: seen is %v", c.dir, c.imports, c.text, got)
		}
	}
}

func TestSetAtImportSeesEachWay(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`var _ = os.Setenv("A", "b")`:                                                        true,
		`var a = take(); func take() string { os.Unsetenv("A"); return "" }`:                 true,
		`var a = f(); func f() int { return g() }; func g() int { os.Clearenv(); return 1 }`: true,
		`var a = func() string { os.Unsetenv("A"); return "" }()`:                            true,
		`var a = once(func() { os.Clearenv() })`:                                             false,
		`func init() {}`:                                                                     true,
		`var a = os.Getenv("A")`:                                                             false,
		`func take() { os.Unsetenv("A") }`:                                                   false,
		`var a = 1; func f() { os.Clearenv() }`:                                              false,
	} {
		if got := len(setAtImport([]source{parsed(t, "agent", `"os"`, text)})) > 0; got != want {
			t.Errorf("%s: seen is %v", text, got)
		}
	}
}
