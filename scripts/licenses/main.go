// Command licenses collects the licences of everything that brink's binary carries,
// for package internal/licenses to embed. scripts/build runs it.
//
// What is linked is asked of go list, with the tags and the architecture of the
// build, and the texts are taken from the sources themselves: those in the
// directory of each linked package and in all above it, up to its module's. A module
// without a text ends the build, and so does a text that is no licence known here:
// somebody must have read it before brink is given away with it.
package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"brink/internal/licenses"
)

func main() {
	arch := flag.String("arch", "amd64", "the `GOARCH` of the binary")
	share := flag.String("share", "/usr/share", "the `DIRECTORY` with doc/PACKAGE/copyright of the C libraries and common-licenses")
	text := flag.String("text", "", "write the list for people too, to `FILE`")
	flag.Parse()
	if err := run(*arch, *share, *text); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

func run(arch, share, text string) error {
	var c collector
	var errs []error
	for _, p := range programs {
		errs = append(errs, c.addModules(p, arch))
	}
	errs = append(errs, c.addGo(), c.addSQLite(), c.addC(share), c.addNFT(arch, share))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	content, err := pack(c.list())
	if err != nil {
		return err
	}
	if err := writeText(text, c.list()); err != nil {
		return err
	}
	return keep(filepath.Join("internal", "licenses", filepath.FromSlash(licenses.File)), content)
}

// writeText writes what brink version --licenses prints, unless path is empty.
func writeText(path string, list licenses.List) error {
	if path == "" {
		return nil
	}
	var out bytes.Buffer
	if err := list.Write(&out); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}

// pack compresses the list; the same list gives the same bytes.
func pack(list licenses.List) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	err = errors.Join(json.NewEncoder(z).Encode(list), z.Close())
	return out.Bytes(), err
}

// keep writes a file that is not so already: what go build has embedded of it stays
// valid otherwise.
func keep(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", content, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// collector gathers components, and each text once.
type collector struct {
	components map[string]*component // by name and version
}

// component is one work, with its texts as they were found.
type component struct {
	licenses.Component
	texts []string
}

// add notes that a program contains a work. What it is called again with for the
// same work are further texts.
func (c *collector) add(program string, what licenses.Component, texts ...string) {
	if c.components == nil {
		c.components = map[string]*component{}
	}
	key := what.Name + " " + what.Version
	known, ok := c.components[key]
	if !ok {
		known = &component{Component: what}
		c.components[key] = known
	}
	if !slices.Contains(known.In, program) {
		known.In = append(known.In, program)
	}
	for _, text := range texts {
		if !slices.Contains(known.texts, text) {
			known.texts = append(known.texts, text)
		}
	}
}

// list is all of it in the order of names, with brink's own first.
func (c *collector) list() licenses.List {
	var out licenses.List
	index := map[string]int{} // of a text, by its words
	for _, known := range c.sorted() {
		for _, text := range known.texts {
			i, ok := index[words(text)]
			if !ok {
				i = len(out.Texts)
				index[words(text)] = i
				out.Texts = append(out.Texts, text)
			}
			if !slices.Contains(known.Texts, i) {
				known.Texts = append(known.Texts, i)
			}
		}
		out.Components = append(out.Components, known.Component)
	}
	return out
}

func (c *collector) sorted() []*component {
	var all []*component
	for _, known := range c.components {
		slices.Sort(known.texts)
		all = append(all, known)
	}
	slices.SortFunc(all, func(a, b *component) int {
		own := func(c *component) int { // false before true
			if c.Name == "brink" {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(own(a), own(b)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version))
	})
	return all
}
