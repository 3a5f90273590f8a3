// Package configfile reads /etc/brink/config.yaml and the files of
// config.yaml.d beside it. Their keys are the names of the command's flags:
//
//	node-name: edge-1
//	tls-san: [shop.example.com, 203.0.113.9]
//	debug: true
//
// The files are merged in the order of their names, the main one first. A later
// value replaces an earlier one, lists too; a key with a plus, as in "tls-san+",
// appends to the list instead. Flags and environment win over files: a list that
// is given there replaces the files' list. These are k3s's rules, so that its
// users' files keep their meaning.
//
// Unlike there, every mistake is an error that names file and line, and all of
// them are reported at once, see package yamlfile: a node that nobody can visit
// should not start with half of what its owner wrote. The package knows nothing of
// the library that parses flags; the command passes in which keys exist and how to
// set one.
package configfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Kind is the kind of value that a key takes.
type Kind int

const (
	Scalar Kind = iota // one string, number or duration
	Bool               // true or false
	List               // any number of scalars; a single one is a list of one
)

// Value is a key with its merged values, and where it was given last.
type Value struct {
	Key    string
	Values []string // one unless the key is a List
	File   string
	Line   int
}

// Load reads path and every .yaml and .yml file in the directory path+".d".
// Values are in the order in which their keys first appear. A missing path is an error only
// if explicit, that is, if the user named it. The directory may always be missing.
func Load(path string, explicit bool, known map[string]Kind) ([]Value, error) {
	return load(path, explicit, known, false)
}

// LoadOnly is Load for a caller that needs only the keys in known: mistakes in other
// keys are not reported. A file that is not YAML is still an error, because nobody can
// tell what is in it.
func LoadOnly(path string, explicit bool, known map[string]Kind) ([]Value, error) {
	return load(path, explicit, known, true)
}

func load(path string, explicit bool, known map[string]Kind, only bool) ([]Value, error) {
	files, err := filesOf(path, explicit)
	if err != nil {
		return nil, err
	}
	var merged []Value
	var errs []error
	for _, file := range files {
		entries, err := parse(file, known, only)
		errs = append(errs, err)
		for _, e := range entries {
			merged = merge(merged, e)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return merged, nil
}

// Apply calls set for each value, and for each element of a list, to parse it like the flag
// of that name. Keys for which isSet is true were given by flag or environment and are
// skipped.
func Apply(values []Value, isSet func(key string) bool, set func(key, value string) error) error {
	var errs []error
	for _, v := range values {
		if isSet(v.Key) {
			continue
		}
		for _, text := range v.Values {
			if err := set(v.Key, text); err != nil {
				errs = append(errs, fmt.Errorf("%s:%d: %s: %q: %w", v.File, v.Line, v.Key, text, err))
			}
		}
	}
	return errors.Join(errs...)
}

// filesOf returns the files to read, in the order in which they are merged.
func filesOf(path string, explicit bool) ([]string, error) {
	var files []string
	_, err := os.Stat(path)
	switch {
	case err == nil:
		files = append(files, path)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading configuration: %w", err)
	case explicit:
		return nil, fmt.Errorf("configuration file %s (--config) does not exist", path)
	}
	entries, err := os.ReadDir(path + ".d") // sorted by name
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".yaml" || ext == ".yml" {
			files = append(files, filepath.Join(path+".d", e.Name()))
		}
	}
	return files, nil
}

// entry is one key of one file.
type entry struct {
	Value
	appends bool
}

// merge adds an entry of a later file.
func merge(merged []Value, e entry) []Value {
	i := slices.IndexFunc(merged, func(v Value) bool { return v.Key == e.Key })
	if i < 0 {
		return append(merged, e.Value)
	}
	if e.appends {
		e.Values = slices.Concat(merged[i].Values, e.Values)
	}
	merged[i] = e.Value
	return merged
}

// check returns why an entry's values do not fit the kind of its key, or nil.
func check(e entry, kind Kind, isList bool) error {
	switch {
	case kind != List && e.appends:
		return fmt.Errorf("%s+ appends to a list, but %s takes one value", e.Key, e.Key)
	case kind != List && isList:
		return fmt.Errorf("%s takes one value, not a list", e.Key)
	case kind == Bool:
		if _, err := strconv.ParseBool(e.Values[0]); err != nil {
			return fmt.Errorf("%s must be true or false, not %q", e.Key, e.Values[0])
		}
	}
	return nil
}
