package images

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"go.yaml.in/yaml/v3"
)

// onlyDocument returns what a file consists of, nil for an empty one. A second
// document is an error, as in config.yaml: k3s reads the first and nobody the rest.
func onlyDocument(text []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, fmt.Errorf("yaml: line %d: a second document starts here: this file has only one", second.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	resolveAliases(&doc)
	return doc.Content[0], nil
}

// resolveAliases puts what *name stands for in its place. Errors name the line
// of the anchor, where the text is. One that contains itself ends the walk where
// the format wants a text.
func resolveAliases(n *yaml.Node) {
	for i, child := range n.Content {
		if child.Kind == yaml.AliasNode {
			n.Content[i] = child.Alias
		} else {
			resolveAliases(child)
		}
	}
}

// pairs calls do for each key of a mapping, those that it merges in among them. An
// empty value is an empty mapping.
func (p *parser) pairs(n *yaml.Node, what string, do func(key, value *yaml.Node)) {
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		p.fail(n, "%s must be a mapping of keys to values", what)
		return
	}
	seen := map[string]bool{}
	for key, value := range each(n) {
		switch {
		case isMerge(key):
		case seen[key.Value]:
			p.fail(key, "key %q is given twice in %s", key.Value, what)
		default:
			seen[key.Value] = true
			do(key, value)
		}
	}
	for key, value := range each(n) {
		if isMerge(key) {
			p.merge(value, what, seen, []*yaml.Node{n}, do)
		}
	}
}

// merge is YAML 1.1's merge key: what a mapping, or a list of them, has besides is
// taken over, the first of a list wins, and a merged one may merge in others. path
// are those that are being merged: one that contains itself has no end.
func (p *parser) merge(n *yaml.Node, what string, seen map[string]bool, path []*yaml.Node, do func(key, value *yaml.Node)) {
	switch {
	case n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			p.merge(item, what, seen, path, do)
		}
		return
	case slices.Contains(path, n):
		p.fail(n, "<< in %s leads back to what it stands in", what)
		return
	case n.Kind != yaml.MappingNode:
		p.fail(n, "<< in %s must be a mapping of keys to values, or a list of them", what)
		return
	}
	for key, value := range each(n) {
		if !isMerge(key) && !seen[key.Value] {
			seen[key.Value] = true
			do(key, value)
		}
	}
	for key, value := range each(n) {
		if isMerge(key) {
			p.merge(value, what, seen, append(slices.Clip(path), n), do)
		}
	}
}

// each yields the keys of a mapping with their values.
func each(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

// isMerge: a key << that is written as a text is a text.
func isMerge(key *yaml.Node) bool { return key.Tag == "!!merge" }
