// Package yamlfile reads YAML files that people write, and names every mistake in one
// by its line.
//
// Decisions:
//
//   - A file is walked by its nodes, because only they know lines, and all mistakes are
//     collected: a machine nobody can visit should not need one visit for each typo.
//   - The line of a mistake in the YAML itself is found here. The library (v3 of
//     go.yaml.in/yaml) counts lines from 0 for some mistakes and from 1 for others,
//     names none for the first line, and for a mapping names the line where it begins.
//   - Aliases and merge keys are followed; a key may be there once; a second document is
//     an error, because nobody would read it.
package yamlfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Reader reads one file and collects the mistakes in it.
type Reader struct {
	path string
	errs []error
}

// NewReader returns a Reader whose errors name path.
func NewReader(path string) *Reader { return &Reader{path: path} }

// Fail adds a mistake at a node.
func (r *Reader) Fail(n *yaml.Node, format string, args ...any) {
	r.failAt(n.Line, fmt.Sprintf(format, args...))
}

func (r *Reader) failAt(line int, problem string) {
	r.errs = append(r.errs, fmt.Errorf("%s:%d: %s", r.path, line, problem))
}

// Err returns one line "path:line: problem" for each mistake, or nil.
func (r *Reader) Err() error { return errors.Join(r.errs...) }

// Document returns the node that a file consists of. It is nil for an empty file, and
// for one that is not YAML, which is a mistake. Errors in what an alias stands for name
// the line of its anchor.
func (r *Reader) Document(text []byte) *yaml.Node {
	lines := &lineReader{rest: text}
	decoder := yaml.NewDecoder(lines)
	var first, second yaml.Node
	err := decoder.Decode(&first)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = decoder.Decode(&second)
	}
	switch {
	case err == nil:
		r.Fail(&second, "a second document starts here: this file has only one")
		return nil
	case !errors.Is(err, io.EOF):
		r.failAt(lineOf(text, lines.read), problemOf(err))
		return nil
	}
	resolveAliases(&first)
	root := first.Content[0]
	if IsNull(root) {
		return nil
	}
	return root
}

// lineReader hands out one line at a time, so that its count says how far the library
// has come.
type lineReader struct {
	rest []byte
	read int
}

// Read returns no more than what is left of a line.
func (l *lineReader) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		return 0, io.EOF
	}
	line, _, ends := bytes.Cut(l.rest, []byte("\n"))
	length := len(line)
	if ends {
		length++
	}
	n := copy(p, l.rest[:length])
	if n == length {
		l.read++
	}
	l.rest = l.rest[n:]
	return n, nil
}

// farthest is how many lines back a mistake is looked for: a quote that is never closed
// is seen at the end of the file.
const farthest = 1000

// lineOf returns the line of a mistake that the library met after it had read some
// lines: the first one without which the text before it is YAML.
func lineOf(text []byte, read int) int {
	lines := bytes.SplitAfter(text, []byte("\n"))
	read = min(max(read, 1), len(lines))
	for n := read - 1; n >= max(0, read-farthest); n-- {
		if isYAML(bytes.Join(lines[:n], nil)) {
			return n + 1
		}
	}
	return read
}

func isYAML(text []byte) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		err := decoder.Decode(new(yaml.Node))
		if err != nil {
			return errors.Is(err, io.EOF)
		}
	}
}

var position = regexp.MustCompile(`^yaml: (line \d+: )?`)

// problemOf is what the library says without where.
func problemOf(err error) string { return position.ReplaceAllString(err.Error(), "") }

// resolveAliases replaces each alias, *name, by the node that it stands for, and does not go
// into that node. A node that contains itself ends a walk where the format wants a text.
func resolveAliases(n *yaml.Node) {
	for i, child := range n.Content {
		if child.Kind == yaml.AliasNode {
			n.Content[i] = child.Alias
		} else {
			resolveAliases(child)
		}
	}
}

// IsNull reports whether a node is an empty value.
func IsNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// Suggest returns the name that was meant by one that is not known, or "" when none is
// similar.
func Suggest(name string, known []string) string {
	name = strings.TrimLeft(name, "-")
	best, least := "", 1+max(2, len(name)/3)
	for _, candidate := range known {
		d := distance(name, candidate)
		if d < least || d == least && best != "" && candidate < best {
			best, least = candidate, d
		}
	}
	return best
}

// distance is the number of characters to insert, delete or replace in order to turn a
// into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
