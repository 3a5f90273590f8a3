package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// keptAutomatic is how many snapshots stay that were made before the first start of another
// version.
const keptAutomatic = 3

// Listed is a file among a data directory's snapshots.
type Listed struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	Manifest
	// Problem says why the file cannot be used, empty if its beginning can be read.
	Problem string `json:"problem,omitempty"`
}

// List returns a data directory's snapshots, the oldest state first. It reads the manifests,
// not the whole files.
func List(l layout.Layout) ([]Listed, error) {
	entries, err := os.ReadDir(l.Snapshots())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	var out []Listed
	for _, e := range entries {
		path := filepath.Join(l.Snapshots(), e.Name())
		isSnapshot := strings.HasSuffix(e.Name(), layout.SnapshotEnding) && e.Name()[0] != '.'
		if isSnapshot {
			out = append(out, look(path))
		}
	}
	// By revisions and not by clocks, which a board may not have.
	slices.SortStableFunc(out, func(a, b Listed) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.Made.Compare(b.Made))
	})
	return out, nil
}

func look(path string) Listed {
	out := Listed{Path: path}
	f, err := open(path)
	if err == nil {
		defer f.Close()
		if info, err := f.Stat(); err == nil {
			out.Size = info.Size()
		}
		var r *reader
		if r, err = newReader(f); err == nil {
			defer r.packed.Close()
			out.Manifest = r.Manifest
		}
	}
	if err != nil {
		out.Problem = err.Error()
	}
	return out
}

// isAutomatic reports whether brink may remove it by itself.
func (s Listed) isAutomatic() bool {
	return strings.HasPrefix(filepath.Base(s.Path), layout.AutoSnapshot) && s.Before != "" && s.Problem == ""
}

// prune removes all automatic snapshots of a cluster but the last ones.
func prune(l layout.Layout, cluster string) error {
	all, err := List(l)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(s Listed) bool { return !s.isAutomatic() || s.Cluster != cluster })
	for _, s := range all[:max(len(all)-keptAutomatic, 0)] {
		if err := os.Remove(s.Path); err != nil {
			return fmt.Errorf("removing an old snapshot: %w", err)
		}
	}
	return nil
}

// FindBefore returns the last automatic snapshot of the state that a version has left.
func FindBefore(l layout.Layout, version string) (Listed, bool, error) {
	all, err := List(l)
	if err != nil {
		return Listed{}, false, err
	}
	for _, s := range slices.Backward(all) {
		if s.isAutomatic() && s.State.Version == version {
			return s, true, nil
		}
	}
	return Listed{}, false, nil
}

// FileName returns a name for a new snapshot, for layout.Snapshot.
func FileName(prefix string, at time.Time) string {
	return prefix + "-" + at.UTC().Format("20060102T150405Z")
}

// Save makes a snapshot of a server that does not run, in a new file.
func Save(ctx context.Context, src Source, to string) (Manifest, error) {
	if err := checkTarget(to); err != nil {
		return Manifest{}, err
	}
	t, err := Take(ctx, src)
	if err != nil {
		return Manifest{}, err
	}
	defer t.Close()
	if err := t.Manifest.sound(); err != nil {
		return Manifest{}, err
	}
	return WriteFile(src.Layout, to, t.Write)
}

// sound returns an error where somebody asks for a snapshot of a damaged database: it would
// give back the damage one day.
func (m Manifest) sound() error {
	if m.Damage == "" || m.Before != "" {
		return nil
	}
	return fmt.Errorf("no snapshot was made: the database is damaged: %s: restart brink, which mends it or says what to do", m.Damage)
}

// Sound is sound for the server that hands a snapshot out.
func (t *Taken) Sound() error { return t.Manifest.sound() }

// checkTarget refuses to replace anything.
func checkTarget(to string) error {
	info, err := os.Lstat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("writing a snapshot: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a link: give the name of a new file", to)
	case info.IsDir():
		return fmt.Errorf("%s is a directory: give the name of a new file in it", to)
	}
	return fmt.Errorf("%s is there already: give another name", to)
}

// WriteFile writes what produce produces to a new file with mode 0600, unless it is not a whole
// and sound snapshot.
func WriteFile(l layout.Layout, to string, produce func(io.Writer) error) (m Manifest, err error) {
	if err := checkTarget(to); err != nil {
		return m, err
	}
	err = atomicfile.WriteWith(to, 0o600, func(w io.Writer) error {
		in, out := io.Pipe()
		checked := make(chan error, 1)
		go func() {
			var err error
			m, err = Check(l, in)
			if err == nil {
				_, err = io.Copy(io.Discard, in) // what follows the end of the archive
			}
			in.CloseWithError(err)
			checked <- err
		}()
		err := produce(io.MultiWriter(w, out))
		out.CloseWithError(err) // nil is the end
		if wrong := <-checked; err == nil {
			err = wrong
		}
		return err
	})
	return m, err
}
