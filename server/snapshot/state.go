package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/internal/release"
)

// StateFormat rises when what is kept on disk changes so that brinks which know only a lower
// number cannot read it.
const StateFormat = 1

// State says which brink has used a server's state last. The zero State is that of a brink
// which wrote none.
type State struct {
	Version    string `json:"version"`    // of brink
	Kubernetes string `json:"kubernetes"` // such as v1.36.3
	Format     int    `json:"format"`     // StateFormat
}

// ReadState returns the State in a data directory.
func ReadState(l layout.Layout) (State, error) { return readState(l.StateVersion()) }

// ReadReplaced returns the State in a directory that a restored snapshot has replaced.
func ReadReplaced(l layout.Layout, dir string) (State, error) {
	return readState(filepath.Join(dir, filepath.Base(l.StateVersion())))
}

func readState(path string) (s State, err error) {
	text, err := atomicfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return State{}, fmt.Errorf("reading which brink has used the state last: %s: %w", path, err)
	}
	return s, nil
}

// write writes the State into a directory for the state.
func (s State) write(path string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return atomicfile.Keep(path, append(text, '\n'), 0o600)
}

// CanRead returns nil if the brink that s is of may go on from the state that was used by
// before, and otherwise one line that says why not. Kubernetes supports upgrades by one minor
// version at a time, and none back.
func (s State) CanRead(before State) error {
	if before.Format > StateFormat {
		return fmt.Errorf("its state was written by brink %s in format %d, and brink %s knows format %d: start that version again, or restore a snapshot of before it",
			before.Version, before.Format, s.Version, StateFormat)
	}
	from, okFrom := minor(before.Kubernetes)
	to, okTo := minor(s.Kubernetes)
	switch {
	case !okFrom || !okTo || from == to || from+1 == to:
		return nil
	case to < from:
		return fmt.Errorf("its state was used by brink %s with Kubernetes %s, which %s may not be able to read: start that version again, or go back with its snapshot (brink upgrade --rollback)",
			before.Version, before.Kubernetes, s.Kubernetes)
	}
	return fmt.Errorf("its state was used by brink %s with Kubernetes %s, and Kubernetes supports no upgrade to %s that skips a minor version: start a brink with 1.%d first",
		before.Version, before.Kubernetes, s.Kubernetes, from+1)
}

// isOlder reports whether the brink that s is of is an earlier release than another.
func (s State) isOlder(other State) bool {
	a, err := release.ParseVersion(s.Version)
	b, err2 := release.ParseVersion(other.Version)
	return err == nil && err2 == nil && a.Compare(b) < 0
}

// minor returns the minor version in v1.36.3.
func minor(version string) (int, bool) {
	major, rest, _ := strings.Cut(version, ".")
	text, _, ok := strings.Cut(rest, ".")
	n, err := strconv.Atoi(text)
	return n, ok && err == nil && major == "v1"
}

// hasState reports whether a data directory has a server's state.
func hasState(l layout.Layout) bool {
	for _, path := range []string{l.Database(), l.Cert(layout.ServerCA)} {
		if _, err := os.Lstat(path); err == nil {
			return true
		}
	}
	return false
}
