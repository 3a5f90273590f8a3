package yamlfile

import (
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Keys says what to do with the value of each known key.
type Keys map[string]func(*yaml.Node)

// Mapping calls the function of each key in n. what names n in errors, as in "auth of
// registry.example". Keys that are not known are mistakes.
func (r *Reader) Mapping(n *yaml.Node, what string, known Keys) {
	names := slices.Sorted(maps.Keys(known))
	r.Pairs(n, what, Plain, func(key, value *yaml.Node) {
		if read, ok := known[key.Value]; ok {
			read(value)
		} else if meant := Suggest(key.Value, names); meant != "" {
			r.Fail(key, "unknown key %q in %s: did you mean %q?", key.Value, what, meant)
		} else {
			r.Fail(key, "unknown key %q in %s: the keys there are %s", key.Value, what, strings.Join(names, ", "))
		}
	})
}

// Name returns what makes a key the same as another one, and whether it counts at all.
type Name func(key string) (name string, counts bool)

// Plain is the Name of keys that are what they are.
func Plain(key string) (string, bool) { return key, true }

// Pairs calls do for each key of a mapping that counts, the keys that it merges in among
// them. An empty value is an empty mapping. A key that is there twice is a mistake.
func (r *Reader) Pairs(n *yaml.Node, what string, name Name, do func(key, value *yaml.Node)) {
	if IsNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.Fail(n, "%s must be a mapping of keys to values", what)
		return
	}
	w := walk{r, what, name, do, map[string]int{}}
	for key, value := range each(n) {
		id, counts := name(key.Value)
		first, again := w.lines[id]
		switch {
		case isMerge(key) || !counts:
		case again:
			r.Fail(key, "key %q is given twice in %s, first in line %d", id, what, first)
		default:
			w.lines[id] = key.Line
			do(key, value)
		}
	}
	w.mergeAll(n, []*yaml.Node{n})
}

// walk is one call of Pairs.
type walk struct {
	*Reader
	what  string
	name  Name
	do    func(key, value *yaml.Node)
	lines map[string]int // where a name was first seen
}

func (w *walk) mergeAll(n *yaml.Node, path []*yaml.Node) {
	for key, value := range each(n) {
		if isMerge(key) {
			w.merge(value, path)
		}
	}
}

// merge handles the value of YAML 1.1's merge key, a mapping or a list of mappings. It takes
// the keys in them that were not seen yet; of a list, the first mapping wins. A merged mapping
// may have a merge key too. path has the mappings that are being merged: one that contains
// itself would be merged without end.
func (w *walk) merge(n *yaml.Node, path []*yaml.Node) {
	switch {
	case n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			w.merge(item, path)
		}
		return
	case slices.Contains(path, n):
		w.Fail(n, "<< in %s leads back to what it stands in", w.what)
		return
	case n.Kind != yaml.MappingNode:
		w.Fail(n, "<< in %s must be a mapping of keys to values, or a list of them", w.what)
		return
	}
	for key, value := range each(n) {
		id, counts := w.name(key.Value)
		if _, seen := w.lines[id]; !isMerge(key) && counts && !seen {
			w.lines[id] = key.Line
			w.do(key, value)
		}
	}
	w.mergeAll(n, append(slices.Clip(path), n))
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

// isMerge reports whether a key is <<; one that is written as a text is a text.
func isMerge(key *yaml.Node) bool { return key.Tag == "!!merge" }
