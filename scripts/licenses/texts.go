package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kinds are the licences that a Go module may have, each known by words that no other
// has. Those of the GNU project are not among them: what they ask of a program that is
// linked statically somebody must have thought about, as for the libraries in C.
var kinds = []struct{ spdx, words string }{
	{"Apache-2.0", "apache license version 2.0, january 2004"},
	{"BSD-2-Clause", "redistribution and use in source and binary forms"},
	{"BSD-3-Clause", "neither the name"},
	{"ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"},
	{"MIT", "permission is hereby granted, free of charge"},
	{"MPL-2.0", "mozilla public license version 2.0"},
}

// kindsOf are the licences that a text is of; some have several, one after the other.
func kindsOf(text string) []string {
	text = strings.ToLower(words(text))
	var out []string
	for _, kind := range kinds {
		if strings.Contains(text, kind.words) {
			out = append(out, kind.spdx)
		}
	}
	if slices.Contains(out, "BSD-3-Clause") { // its other clauses are those of the first
		out = slices.DeleteFunc(out, func(kind string) bool { return kind == "BSD-2-Clause" })
	}
	return out
}

// words makes two copies of a text equal that were only broken into other lines.
func words(text string) string { return strings.Join(strings.Fields(text), " ") }

// expression joins licences, all of which must be kept.
func expression(kinds []string) string {
	slices.Sort(kinds)
	return strings.Join(slices.Compact(kinds), " AND ")
}

// found is a file with a licence, or with something that must go with one.
type found struct {
	path   string
	notice bool // a notice or a grant beside a licence
}

// textsBelow returns the files with texts in dir and in all directories above it, up
// to root.
func textsBelow(root, dir string) ([]found, error) {
	var out []found
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if isText, notice := classify(e.Name()); isText && e.Type().IsRegular() {
				out = append(out, found{filepath.Join(dir, e.Name()), notice})
			}
		}
		if dir == root {
			return out, nil
		}
		above := filepath.Dir(dir)
		if above == dir {
			return nil, fmt.Errorf("%s is not below %s", dir, root)
		}
		dir = above
	}
}

// classify tells by its name whether a file has such a text. LICENSE.docs is of
// documentation, which is not linked.
func classify(name string) (isText, notice bool) {
	base, extension, _ := strings.Cut(strings.ToLower(name), ".")
	if slices.Contains([]string{"go", "docs", "json", "yaml", "yml", "sh", "tmpl"}, extension) {
		return false, false
	}
	for _, word := range []string{"license", "licence", "copying", "unlicense"} {
		if strings.HasPrefix(base, word) {
			return true, false
		}
	}
	return slices.Contains([]string{"notice", "copyright", "patents"}, base), true
}
