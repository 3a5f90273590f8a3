// Package docs has no code, only tests that keep the pages true: what they link to
// exists, the files that they name exist, and lines that they quote from the log are
// in the code. Pages that are generated have their tests where they come from.
package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	root = ".."
	// maxLines is what somebody reads to the end.
	maxLines = 150
	// maxReadme is a screen and a half.
	maxReadme = 100
)

// pages are all papers for people, by their path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			rel, _ := filepath.Rel(root, path)
			out[rel] = string(text)
		}
	}
	if len(out) < 10 {
		t.Fatalf("only %d pages seen: the search is broken", len(out))
	}
	return out
}

// generated is a part of a page that a test has written, see package testdocs.
var generated = regexp.MustCompile(`(?s)<!-- [a-z-]+: begin.*?<!-- [a-z-]+: end -->`)

func TestLength(t *testing.T) {
	t.Parallel()
	for path, text := range pages(t) {
		limit := maxLines
		switch {
		case path == "README.md":
			limit = maxReadme
		case path == "CHANGELOG.md":
			continue
		}
		if lines := strings.Count(generated.ReplaceAllString(text, ""), "\n"); lines > limit {
			t.Errorf("%s has %d lines, at most %d: split it", path, lines, limit)
		}
	}
}

var (
	link    = regexp.MustCompile(`\[[^\]]*\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestLinks: each link within the repository leads to a file and a heading of it.
func TestLinks(t *testing.T) {
	t.Parallel()
	all := pages(t)
	linked := map[string]bool{"README.md": true}
	for path, text := range all {
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			linked[file] = true
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Errorf("%s links to %s, which is not there", path, found[1])
			} else if anchor != "" && !slices.Contains(anchors(all[file]), anchor) {
				t.Errorf("%s links to %s, which has no such heading", path, found[1])
			}
		}
	}
	for path := range all {
		if !linked[path] {
			t.Errorf("no page links to %s", path)
		}
	}
}

// anchors are those that repository hosts make of headings.
func anchors(text string) []string {
	var out []string
	for _, found := range heading.FindAllStringSubmatch(text, -1) {
		out = append(out, strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(found[1]), ""), " ", "-"))
	}
	return out
}

// inTree is a path of the repository as pages name it: in backticks, from the root.
var inTree = regexp.MustCompile("`((?:agent|cmd|datastore|docs|e2e|internal|network|runtime|scripts|server)/[a-z0-9_./-]+)`")

// TestFiles: each file and directory of the repository that a page names is there.
func TestFiles(t *testing.T) {
	t.Parallel()
	seen := 0
	for path, text := range pages(t) {
		for _, found := range inTree.FindAllStringSubmatch(text, -1) {
			if isData(found[1]) {
				continue
			}
			seen++
			if _, err := os.Stat(filepath.Join(root, found[1])); err != nil {
				t.Errorf("%s names %s, which is not there", path, found[1])
			}
		}
	}
	if seen < 20 {
		t.Fatalf("only %d files seen: the search is broken", seen)
	}
}

// TestUnsafe: what reaches into others by package unsafe is worked around something,
// and listed.
func TestUnsafe(t *testing.T) {
	t.Parallel()
	listed := pages(t)["docs/upstream.md"]
	seen := 0
	eachSource(t, func(path string, file *ast.File) {
		for _, spec := range file.Imports {
			if spec.Path.Value != `"unsafe"` || strings.HasPrefix(path, "internal/test") {
				continue
			}
			seen++
			if !strings.Contains(listed, "`"+path+"`") {
				t.Errorf("%s imports unsafe and is not in docs/upstream.md: what does it work around, and when can it go?", path)
			}
		}
	})
	if seen < 3 {
		t.Fatalf("only %d files seen: the search is broken", seen)
	}
}

// isData tells what lies below the data directory, whose names are like those of the
// repository.
func isData(path string) bool {
	for _, below := range []string{"agent/images", "agent/pod-manifests", "server/tls", "server/db", "server/token", "server/manifests"} {
		if path == below || strings.HasPrefix(path, below+"/") {
			return true
		}
	}
	return false
}

// quoted is the first column of a table of lines from the log, with one or more of
// them.
var (
	quoted      = regexp.MustCompile("(?m)^\\| (`[^|]+) \\|")
	inBackticks = regexp.MustCompile("`([^`]+)`")
)

// TestQuotedLines: what troubleshooting quotes from the log and from errors is said
// somewhere in the code. "…" stands for what differs.
func TestQuotedLines(t *testing.T) {
	t.Parallel()
	said := strings.Join(literals(t), "\n")
	seen := 0
	for _, cell := range quoted.FindAllStringSubmatch(pages(t)["docs/troubleshooting.md"], -1) {
		for _, code := range inBackticks.FindAllStringSubmatch(cell[1], -1) {
			for part := range strings.SplitSeq(code[1], "…") {
				seen++
				if part = strings.TrimSpace(part); part != "" && !strings.Contains(said, part) {
					t.Errorf("troubleshooting.md quotes %q, which nothing says", part)
				}
			}
		}
	}
	if seen < 20 {
		t.Fatalf("only %d quotations seen: the search is broken", seen)
	}
}

// literals are all texts in brink's own code.
func literals(t *testing.T) []string {
	t.Helper()
	var out []string
	eachSource(t, func(_ string, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					out = append(out, text)
				}
			}
			return true
		})
	})
	return out
}

// eachSource visits the Go files that the binary is made of, by their path from the
// root.
func eachSource(t *testing.T, visit func(path string, file *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", ".build", "e2e", "bin", "testdata", "scripts"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		visit(filepath.ToSlash(rel), file)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// target is a target of make as pages name it.
var target = regexp.MustCompile("(?m)(?:^ +|`)make ([a-z0-9]+)")

// TestTargets: make has the targets that pages name, and CI calls the README's test
// command.
func TestTargets(t *testing.T) {
	t.Parallel()
	makefile, ci := readFile(t, "Makefile"), readFile(t, ".ci/run")
	if !strings.Contains(ci, "\nexec make test\n") || !strings.Contains(pages(t)["README.md"], "\n    make test ") {
		t.Error("CI and the README do not name the same command for all tests")
	}
	seen := 0
	for path, text := range pages(t) {
		for _, found := range target.FindAllStringSubmatch(text, -1) {
			seen++
			if !strings.Contains(makefile, "\n"+found[1]+":") {
				t.Errorf("%s names make %s, which is no target", path, found[1])
			}
		}
	}
	if seen < 5 {
		t.Fatalf("only %d targets seen: the search is broken", seen)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
