package configfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// parse returns the entries of one file, and every mistake in it; with only,
// other keys than the known ones are passed over.
func parse(path string, known map[string]Kind, only bool) ([]entry, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	root, err := document(data)
	if err != nil {
		return nil, located(path, err)
	}
	if root == nil {
		return nil, nil
	}
	var entries []entry
	var errs []error
	lines := map[string]int{} // where a key was seen
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if _, ok := known[strings.TrimSuffix(key.Value, "+")]; only && !ok {
			continue
		}
		e, err := parseEntry(key, value, known)
		if first, ok := lines[e.Key]; ok {
			err = fmt.Errorf("%s is given twice, first in line %d", e.Key, first)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%d: %w", path, key.Line, err))
			continue
		}
		lines[e.Key] = key.Line
		e.File = path
		entries = append(entries, e)
	}
	return entries, errors.Join(errs...)
}

// document returns the mapping that a file consists of, nil for an empty file.
func document(data []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, fmt.Errorf("yaml: line %d: a second document starts here: a configuration file has only one", second.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, err
	}
	root := doc.Content[0]
	if isNull(root) {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("yaml: line %d: expected lines of the form key: value", root.Line)
	}
	return root, nil
}

var (
	yamlError   = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)
	parserError = regexp.MustCompile(`^did not find expected (key|node content|'-'|','|<document start>)`)
)

// located turns the YAML library's way of telling a line into path:line. For
// mistakes its parser finds, as opposed to its scanner, it counts lines from 0,
// and where it means the first it tells none (go.yaml.in/yaml/v3 v3.0.6).
func located(path string, err error) error {
	m := yamlError.FindStringSubmatch(err.Error())
	if m == nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	line, _ := strconv.Atoi(m[1])
	if line == 0 || parserError.MatchString(m[2]) {
		line++
	}
	return fmt.Errorf("%s:%d: %s", path, line, m[2])
}

func parseEntry(key, value *yaml.Node, known map[string]Kind) (entry, error) {
	var e entry
	e.Key, e.appends = strings.CutSuffix(key.Value, "+")
	e.Line = key.Line
	kind, ok := known[e.Key]
	if !ok {
		return e, unknownKey(e.Key, known)
	}
	value = target(value)
	switch value.Kind {
	case yaml.MappingNode:
		return e, fmt.Errorf("%s takes %s, not a map", e.Key, kind)
	case yaml.SequenceNode:
		for _, item := range value.Content {
			item = target(item)
			if item.Kind != yaml.ScalarNode || isNull(item) {
				return e, fmt.Errorf("%s: the list's element in line %d is not a plain value", e.Key, item.Line)
			}
			e.Values = append(e.Values, item.Value)
		}
	default:
		if isNull(value) {
			return e, fmt.Errorf("%s has no value: give one or remove the line", e.Key)
		}
		e.Values = []string{value.Value}
	}
	return e, check(e, kind, value.Kind == yaml.SequenceNode)
}

// target follows an alias (*name) to what it stands for.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func (k Kind) String() string {
	return [...]string{Scalar: "one value", Bool: "true or false", List: "a list"}[k]
}
