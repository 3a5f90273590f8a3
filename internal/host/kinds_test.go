package host

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// kindOf is the name by which Kinds has the check of a name.
func kindOf(name string) string {
	return regexp.MustCompile(`^port \d+(/udp)?$`).ReplaceAllString(name, portKind)
}

// TestKindsExplainEveryCheck: those of this machine, and in this order.
func TestKindsExplainEveryCheck(t *testing.T) {
	t.Parallel()
	checks := Checks(CheckOptions{DataDir: t.TempDir(), NodeName: "edge", VXLAN: true, NotBefore: time.Unix(1, 0), Ports: []Port{{Number: 6443}, {Number: 8472, UDP: true}}})
	last := -1
	for _, c := range checks {
		at := -1
		for i, k := range Kinds() {
			if k.Name == kindOf(c.Name) {
				at = i
			}
		}
		if at < last || at < 0 {
			t.Errorf("%q is number %d of Kinds, after %d", c.Name, at, last)
		}
		last = at
	}
}

// TestKindsAreThoseOfTheSource looks for the names of checks in the source, also of
// those that this machine does not make, and for what they can say.
func TestKindsAreThoseOfTheSource(t *testing.T) {
	t.Parallel()
	known := map[string]Kind{}
	for _, k := range Kinds() {
		if known[k.Name].Name != "" || k.Asks == "" || k.Cure == "" || strings.HasSuffix(k.Asks, ".") || strings.HasSuffix(k.Cure, ".") {
			t.Errorf("%+v is there twice, lacks a text or ends with a full stop", k)
		}
		known[k.Name] = k
	}
	files, err := filepath.Glob("check_*.go")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for name, worst := range namedIn(t, file) {
			named++
			if k := known[name]; k.Name == "" || rank(worst) > rank(k.Worst) || k.Worst == Fail && worst != Fail {
				t.Errorf("%s: the check %q can say %q, Kinds has %+v", file, name, worst, k)
			}
		}
	}
	if named < 15 {
		t.Errorf("only %d names were found: the search is broken", named)
	}
}

func rank(r Result) int { return map[Result]int{OK: 0, Warn: 1, Fail: 2}[r] }

// namedIn returns the names of checks, by functions that have a constant for it, with
// the worst that they call: warn or fail.
func namedIn(t *testing.T, file string) map[string]Result {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.ParseFile(token.NewFileSet(), file, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]Result{}
	for _, d := range parsed.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name, worst := "", OK
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				if len(n.Values) == 0 || n.Names[0].Name != "name" {
					return true
				}
				if literal, ok := n.Values[0].(*ast.BasicLit); ok {
					name, _ = strconv.Unquote(literal.Value)
				}
			case *ast.CallExpr:
				if called, ok := n.Fun.(*ast.Ident); ok && rank(Result(called.Name)) > rank(worst) {
					worst = Result(called.Name)
				}
			}
			return true
		})
		if name != "" {
			out[name] = worse(out[name], worst)
		}
	}
	return out
}

// worse is the worse of two results.
func worse(a, b Result) Result {
	if rank(a) > rank(b) {
		return a
	}
	return b
}
