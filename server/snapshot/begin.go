package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"brink/datastore"
	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/server/token"
)

// Start is a server that is about to open its state.
type Start struct {
	Layout layout.Layout
	Own    State
	Node   string
	// Elsewhere says that the database is not the SQLite one in the data directory.
	Elsewhere bool
	// Without is the user's word that no snapshot is wanted.
	Without bool
	Log     *slog.Logger
}

// Begin lets a server go on from a state, or says in one line why not. Before the first start
// of another version it makes a snapshot, and writes down who uses the state from now on. The
// caller holds the data directory.
func (s Start) Begin(ctx context.Context) error {
	before, err := ReadState(s.Layout)
	if err != nil {
		return err
	}
	if err := s.Own.CanRead(before); err != nil {
		return fmt.Errorf("%s: %w", s.Layout.Data(), err)
	}
	if before == s.Own {
		return nil
	}
	err = s.keep(ctx, before)
	if err == nil {
		err = s.Own.Use(s.Layout)
	}
	if err != nil && s.Own.isOlder(before) {
		s.Log.Warn("the version before goes on without a snapshot of what the later one has left", "later", before.Version, "error", err)
		return nil // who goes back on a full disk must get a node
	}
	return err
}

// Use writes down that the brink that s is of uses a state from now on.
func (s State) Use(l layout.Layout) error {
	if err := os.MkdirAll(l.Server(), 0o700); err != nil {
		return fmt.Errorf("writing which brink uses the state: %w", err)
	}
	if err := s.write(l.StateVersion()); err != nil {
		return err
	}
	return ForgetWithout(l)
}

// StartWithout has the first start of a version make no snapshot.
func StartWithout(l layout.Layout, version string) error {
	return atomicfile.Keep(l.NoSnapshot(), []byte(version+"\n"), 0o600)
}

// ForgetWithout takes back what StartWithout has said.
func ForgetWithout(l layout.Layout) error {
	if err := os.Remove(l.NoSnapshot()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing what said that no snapshot is wanted: %w", err)
	}
	return nil
}

// isUnwanted reports whether somebody has said that this start makes no snapshot.
func (s Start) isUnwanted() bool {
	text, err := atomicfile.Read(s.Layout.NoSnapshot())
	return s.Without || err == nil && strings.TrimSpace(string(text)) == s.Own.Version
}

// keep makes the snapshot, where there is something to keep.
func (s Start) keep(ctx context.Context, before State) error {
	if _, err := os.Lstat(s.Layout.Database()); err != nil || s.Elsewhere || s.isUnwanted() {
		if s.Elsewhere && before.Version != "" {
			s.Log.Warn("the database is elsewhere: there is no snapshot of before the first start of this version", "before", before.Version)
		}
		return nil
	}
	path, err := Automatic(ctx, Source{Layout: s.Layout, Node: s.Node, MadeBy: s.Own.Version, Before: s.Own.Version})
	switch {
	case datastore.IsDamaged(err):
		s.Log.Warn("there is no snapshot of before the first start of this version", "before", before.Version, "error", err)
		return nil
	case err != nil:
		return fmt.Errorf("the snapshot before the first start of this version: %w; to start without one give --no-upgrade-snapshot", err)
	}
	s.Log.Info("snapshot made before the first start of this version", "before", before.Version, "path", path)
	return nil
}

// Automatic makes the snapshot before the first start of version src.Before, unless the last
// one is of this very state, and removes those that are too many. It returns its file.
func Automatic(ctx context.Context, src Source) (string, error) {
	has, err := isKept(src)
	if err != nil || has != "" {
		return has, err
	}
	path := src.Layout.Snapshot(FileName(layout.AutoSnapshot+src.Before, time.Now()))
	if _, err := os.Lstat(path); err == nil { // a clock that stands still
		path = src.Layout.Snapshot(FileName(fmt.Sprintf("%s%s-%d", layout.AutoSnapshot, src.Before, time.Now().UnixNano()), time.Now()))
	}
	m, err := Save(ctx, src, path)
	if err != nil {
		return "", err
	}
	return path, prune(src.Layout, m.Cluster)
}

// isKept returns the snapshot that has the present state. Revisions are never used twice, so
// in one cluster the same last revision is the same state.
func isKept(src Source) (string, error) {
	state, err := ReadState(src.Layout)
	if err != nil {
		return "", err
	}
	last, found, err := FindBefore(src.Layout, state.Version)
	if err != nil || !found {
		return "", err
	}
	cluster, err := token.CAHash(src.Layout.Cert(layout.ServerCA))
	if err != nil || last.Cluster != cluster {
		return "", nil
	}
	head, err := datastore.LastRevision(src.Layout.DB())
	if err != nil || head != last.Revision {
		return "", nil
	}
	f, err := open(last.Path)
	if err != nil {
		return "", nil
	}
	defer f.Close()
	if _, err := Check(src.Layout, f); err != nil {
		return "", nil // one that was damaged since is made again
	}
	return last.Path, nil
}
