package datadir

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"brink/internal/atomicfile"
)

// markTitle is the first line of a mark. The number is that of the format.
const markTitle = "This directory is brink's: uninstalling removes what brink keeps in it. (1)"

// mark is the content of a mark: the data directory that it was written for, the run
// directory, and what was there before.
type mark struct {
	data, run   string
	preexisting []string
	links       map[string]string // those to empty directories, with their targets
}

var errNoMark = errors.New("not a mark of brink")

func (m mark) text() string {
	lines := []string{markTitle, "data " + strconv.Quote(m.data), "run " + strconv.Quote(m.run)}
	for _, path := range m.preexisting { // "laid" is the format's word for it
		lines = append(lines, "laid "+strconv.Quote(path))
	}
	for _, path := range slices.Sorted(maps.Keys(m.links)) {
		lines = append(lines, "link "+strconv.Quote(path)+" "+strconv.Quote(m.links[path]))
	}
	return strings.Join(lines, "\n") + "\n"
}

// readMark reads a regular file only: a link may lead anywhere.
func readMark(path string) (mark, error) {
	text, err := atomicfile.Read(path)
	if err != nil {
		return mark{}, err
	}
	return parseMark(string(text))
}

func parseMark(text string) (mark, error) {
	title, rest, _ := strings.Cut(text, "\n")
	if title != markTitle {
		return mark{}, errNoMark
	}
	m := mark{links: map[string]string{}}
	for line := range strings.Lines(rest) {
		key, quoted, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		first, err := strconv.QuotedPrefix(quoted)
		if err != nil {
			return mark{}, errNoMark
		}
		value, _ := strconv.Unquote(first)
		switch key {
		case "link":
			target, err := strconv.Unquote(strings.TrimPrefix(quoted[len(first):], " "))
			if err != nil {
				return mark{}, errNoMark
			}
			m.links[value] = target
		case "data":
			m.data = value
		case "run":
			m.run = value
		case "laid":
			m.preexisting = append(m.preexisting, value)
		}
	}
	if !filepath.IsAbs(m.data) || !filepath.IsAbs(m.run) {
		return mark{}, errNoMark
	}
	return m, nil
}
