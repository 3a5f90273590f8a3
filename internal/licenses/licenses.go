// Package licenses holds the licences of everything that the binary carries: the
// Go modules that are linked into it, the programs of the payload, and the C
// libraries in both.
//
// scripts/build has scripts/licenses collect them, from the sources that it is about
// to compile, and this package embeds the result. It is compressed, since the same
// few texts come again and again, and it is JSON, so that it can be printed for
// people and for programs. A binary that was built by go build alone compiles and
// works too, and says that it carries no list.
package licenses

import (
	"compress/gzip"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
)

// File is where scripts/licenses puts the list, below this package's directory.
const File = "generated/licenses.json.gz"

//go:embed all:generated
var generated embed.FS

// List is everything that the binary carries, with the texts.
type List struct {
	Components []Component `json:"components"`
	// Texts are licences and notices, each one once. Components name them by index.
	Texts []string `json:"texts"`
}

// Component is one work of others, or brink itself.
type Component struct {
	// Name is a module's path, or the name of a library.
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// License is an SPDX expression: "MIT", "Apache-2.0 AND BSD-3-Clause".
	License string `json:"license"`
	// In are the programs that contain it: brink, runc, bridge ...
	In []string `json:"in"`
	// Note says what the licence does not.
	Note  string `json:"note,omitempty"`
	Texts []int  `json:"texts,omitempty"`
}

// ErrNotBuiltIn is returned for a binary that was not built by scripts/build.
var ErrNotBuiltIn = errors.New("this binary carries no list of licences: build it with scripts/build")

// Read returns the list that is embedded in this binary.
func Read() (List, error) { return read(generated) }

func read(from fs.FS) (List, error) {
	var list List
	f, err := from.Open(File)
	if errors.Is(err, fs.ErrNotExist) {
		return list, ErrNotBuiltIn
	}
	if err != nil {
		return list, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return list, fmt.Errorf("reading the embedded licences: %w", err)
	}
	if err := json.NewDecoder(z).Decode(&list); err != nil {
		return list, fmt.Errorf("reading the embedded licences: %w", err)
	}
	return list, nil
}

// Write prints a table of all components and then the texts, each with the
// components that it is of.
func (l List) Write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVERSION\tLICENSE\tIN")
	for _, c := range l.Components {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, c.Version, c.License, strings.Join(c.In, ","))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, c := range l.Components {
		if c.Note != "" {
			fmt.Fprintf(out, "\n%s: %s\n", c.Name, c.Note)
		}
	}
	for i, text := range l.Texts {
		names := strings.Join(l.namesOf(i), "\n")
		if _, err := fmt.Fprintf(out, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), names, text); err != nil {
			return err
		}
	}
	return nil
}

// namesOf returns the components that a text is of.
func (l List) namesOf(text int) []string {
	var out []string
	for _, c := range l.Components {
		for _, i := range c.Texts {
			if i == text {
				out = append(out, strings.TrimSpace(c.Name+" "+c.Version))
			}
		}
	}
	return out
}
