package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/scanner"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// goPackage is what go list tells of a package.
type goPackage struct {
	Dir                           string
	GoFiles, CgoFiles, EmbedFiles []string
}

// templateMethods returns the names of all methods that a template in what is linked into
// a package may call: each exported name behind a dot, in a source or an embedded file that
// has a template's braces. Not all of them are methods, which does not matter.
func templateMethods(pkg string) ([]string, error) {
	list, err := output("go", "list", "-deps", "-json=Dir,GoFiles,CgoFiles,EmbedFiles", pkg)
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	for d := json.NewDecoder(strings.NewReader(list)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if err := p.addMethods(found); err != nil {
			return nil, err
		}
	}
	var names []string
	for name := range found {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (p goPackage) addMethods(found map[string]bool) error {
	for _, name := range slices.Concat(p.GoFiles, p.CgoFiles, p.EmbedFiles) {
		path := name
		if !filepath.IsAbs(path) { // generated ones are
			path = filepath.Join(p.Dir, name)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		switch {
		case !bytes.Contains(content, []byte("{{")):
		case slices.Contains(p.EmbedFiles, name):
			if utf8.Valid(content) {
				addNames(found, string(content))
			}
		default:
			addLiterals(found, content)
		}
	}
	return nil
}

// addLiterals looks into all string literals of a source that has a template: it may be put
// together from several, of which one may have no braces.
func addLiterals(found map[string]bool, source []byte) {
	var s scanner.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(source)), source, nil, 0)
	for {
		_, kind, literal := s.Scan()
		if kind == token.EOF {
			return
		}
		if kind == token.STRING {
			addNames(found, literal)
		}
	}
}

var nameInTemplate = regexp.MustCompile(`\.([A-Z][A-Za-z0-9_]*)`)

func addNames(found map[string]bool, text string) {
	for _, m := range nameInTemplate.FindAllStringSubmatch(text, -1) {
		found[m[1]] = true
	}
}
