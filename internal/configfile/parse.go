package configfile

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"brink/internal/yamlfile"
)

// parse returns the entries of one file, and every mistake in it; with only,
// other keys than the known ones are passed over.
func parse(path string, known map[string]Kind, only bool) ([]entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	r := yamlfile.NewReader(path)
	root := r.Document(data)
	if root == nil {
		return nil, r.Err()
	}
	if root.Kind != yaml.MappingNode {
		r.Fail(root, "expected lines of the form key: value")
		return nil, r.Err()
	}
	var entries []entry
	name := func(key string) (string, bool) {
		key = strings.TrimSuffix(key, "+")
		_, ok := known[key]
		return key, ok || !only
	}
	r.Pairs(root, "this file", name, func(key, value *yaml.Node) {
		e, err := parseEntry(key, value, known)
		if err != nil {
			r.Fail(key, "%v", err)
			return
		}
		e.File = path
		entries = append(entries, e)
	})
	return entries, r.Err()
}

func parseEntry(key, value *yaml.Node, known map[string]Kind) (entry, error) {
	var e entry
	e.Key, e.appends = strings.CutSuffix(key.Value, "+")
	e.Line = key.Line
	kind, ok := known[e.Key]
	if !ok {
		return e, unknownKey(e.Key, known)
	}
	switch value.Kind {
	case yaml.MappingNode:
		return e, fmt.Errorf("%s takes %s, not a map", e.Key, kind)
	case yaml.SequenceNode:
		for _, item := range value.Content {
			if item.Kind != yaml.ScalarNode || yamlfile.IsNull(item) {
				return e, fmt.Errorf("%s: the list's element in line %d is not a plain value", e.Key, item.Line)
			}
			e.Values = append(e.Values, item.Value)
		}
	default:
		if yamlfile.IsNull(value) {
			return e, fmt.Errorf("%s has no value: give one or remove the line", e.Key)
		}
		e.Values = []string{value.Value}
	}
	return e, check(e, kind, value.Kind == yaml.SequenceNode)
}

// unknownKey guesses what was meant.
func unknownKey(key string, known map[string]Kind) error {
	if meant := yamlfile.Suggest(key, slices.Collect(maps.Keys(known))); meant != "" {
		return fmt.Errorf("unknown key %q: did you mean %q?", key, meant)
	}
	return fmt.Errorf("unknown key %q: keys are the names of flags without dashes in front", key)
}

// String is what values of the kind are, for errors.
func (k Kind) String() string {
	return [...]string{Scalar: "one value", Bool: "true or false", List: "a list"}[k]
}
