// Package testdocs keeps the documentation true where it repeats the code. A page has
// parts between two markers,
//
//	<!-- NAME: begin, written by go test ./PACKAGE -run TestDocs -update -->
//	<!-- NAME: end -->
//
// which a test of that package makes from its tables. The test fails when the page says
// something else, and writes it when it is called with -update.
package testdocs

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

var update = flag.Bool("update", false, "write the generated parts of the documentation anew")

// Part compares the part of a page with what it has to be, or writes it. page is a path
// from the root of the repository, in which the test's package lies.
func Part(t *testing.T, page, name, want string) {
	t.Helper()
	path := filepath.Join(Root(t), filepath.FromSlash(page))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Tests of several packages write parts of one page at the same time.
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, got, after := split(t, page, string(text), name)
	want = "\n" + strings.Trim(want, "\n") + "\n\n"
	if got == want {
		return
	}
	if !*update {
		t.Errorf("%s: the part %s is not what the code says, write it anew with -update\n%s", page, name, firstDifference(got, want))
		return
	}
	content := []byte(before + want + after)
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

// split cuts a page at the two markers of a part, which stay on the outside.
func split(t *testing.T, page, text, name string) (before, part, after string) {
	t.Helper()
	begin := strings.Index(text, "<!-- "+name+": begin")
	end := strings.Index(text, "<!-- "+name+": end -->")
	if begin < 0 || end < begin {
		t.Fatalf("%s has no part %s between <!-- %s: begin ... --> and <!-- %s: end -->", page, name, name, name)
	}
	line := strings.Index(text[begin:], "\n")
	begin += line + 1
	return text[:begin], text[begin:end], text[end:]
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range max(len(g), len(w)) {
		line := func(lines []string) string {
			if i < len(lines) {
				return lines[i]
			}
			return "(its end)"
		}
		if line(g) != line(w) {
			return "page: " + line(g) + "\ncode: " + line(w)
		}
	}
	return ""
}

// Root is the directory of go.mod.
func Root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(text, []byte("module brink\n")) {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("there is no go.mod of brink above this test")
		}
		dir = filepath.Dir(dir)
	}
}

// Table makes a table in Markdown.
func Table(header []string, rows [][]string) string {
	var b strings.Builder
	row := func(cells []string) {
		b.WriteString("|")
		for _, cell := range cells {
			b.WriteString(" " + strings.ReplaceAll(strings.ReplaceAll(cell, "|", `\|`), "\n", " ") + " |")
		}
		b.WriteString("\n")
	}
	row(header)
	b.WriteString(strings.Repeat("|---", len(header)) + "|\n")
	for _, cells := range rows {
		row(cells)
	}
	return b.String()
}
