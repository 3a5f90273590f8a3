package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// program prints what two templates make of a value, one of them put together from pieces.
const program = `package main

import (
	"os"
	"text/template"
)

type T struct{}

func (T) Kept() string      { return "kept" }
func (T) InPieces() string  { return " in pieces" }
func (T) NotCalled() string { return "not called" }

func main() {
	text := "{{.Kept}}" + "{{with ." + "}}{{" + ".InPieces" + "}}{{end}}\n"
	template.Must(template.New("").Parse(text)).Execute(os.Stdout, T{})
}
`

// TestLinker builds a program twice: it does the same, without the method that no template
// names.
func TestLinker(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module m\n\ngo 1.26\n", "main.go": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	self := filepath.Join(t.TempDir(), "linker")
	mustRun(t, ".", "go", "build", "-o", self, ".")
	t.Chdir(dir)
	t.Setenv("GOFLAGS", "")
	names, err := templateMethods(".")
	if err != nil || !slices.Contains(names, "Kept") || !slices.Contains(names, "InPieces") || slices.Contains(names, "NotCalled") {
		t.Fatalf("%v, %v", names, err)
	}
	made := t.TempDir()
	if err := build(made, mustRun(t, ".", "go", "env", "GOROOT"), names); err != nil {
		t.Fatal(err)
	}
	mustRun(t, ".", "go", "build", "-o", "whole", ".")
	mustRun(t, ".", "go", "build", "-o", "trimmed", "-toolexec", self+" exec "+filepath.Join(made, "link"), ".")
	for _, binary := range []string{"whole", "trimmed"} {
		if out := mustRun(t, ".", "./"+binary); out != "kept in pieces" {
			t.Errorf("%s prints %q", binary, out)
		}
		has := strings.Contains(mustRun(t, ".", "go", "tool", "nm", binary), "main.T.NotCalled")
		if want := binary == "whole"; has != want {
			t.Errorf("%s has the method that is not called: %v", binary, has)
		}
	}
}

func mustRun(t *testing.T, dir string, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestPatchKnowsTheLine(t *testing.T) {
	t.Parallel()
	if _, err := patch("package ld\n", nil); err == nil {
		t.Error("a file without the line is taken")
	}
	if got, err := patch(seen, []string{"A", "B"}); err != nil || !strings.Contains(got, `{"A", "B"}`) {
		t.Errorf("%s, %v", got, err)
	}
}

// TestCommentsAreNoTemplates: only texts that the program can use count.
func TestCommentsAreNoTemplates(t *testing.T) {
	t.Parallel()
	found := map[string]bool{}
	addLiterals(found, []byte("package p\n// {{.Comment}}\nvar a = `{{.Raw}}` + \"{{.Quoted.Twice}}\" + x.Code\n"))
	if !found["Raw"] || !found["Quoted"] || !found["Twice"] || len(found) != 3 {
		t.Errorf("found %v", found)
	}
}
