package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"brink/datastore"
	"brink/internal/atomicfile"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/internal/removetree"
	"brink/server/token"
)

// Restore puts a snapshot in the place of a server's state.
type Restore struct {
	Layout layout.Layout
	File   string
	// Replace allows there to be a state. It is kept beside the restored one.
	Replace bool
	// Own is the brink that restores. It refuses what it could not start with.
	Own State
	// Before is called, if there is one, when all but the last step is done. Its error leaves
	// the old state in its place.
	Before func(Restored) error
}

// Restored is what Run did.
type Restored struct {
	Manifest
	Replaced string // where the state before is now, empty if there was none
}

// Run restores. The caller holds the data directory's lock, so that no brink runs. Until the
// last step the old state is in its place, and after it the new one.
func (r Restore) Run(ctx context.Context) (Restored, error) {
	f, err := open(r.File)
	if err != nil {
		return Restored{}, fmt.Errorf("restoring: %w", err)
	}
	defer f.Close()
	in, err := newReader(f)
	if err != nil {
		return Restored{}, fmt.Errorf("%s %w", r.File, err)
	}
	defer in.packed.Close()
	if err := r.Own.CanRead(in.State); err != nil {
		return Restored{}, fmt.Errorf("%s: %w", r.File, err)
	}
	if err := r.checkPlace(); err != nil {
		return Restored{}, err
	}
	if err := hasRoom(r.Layout.Data(), in.Files); err != nil {
		return Restored{}, fmt.Errorf("%s %w", r.File, err)
	}
	if err := datadir.Claim(r.Layout); err != nil {
		return Restored{}, err
	}
	staged, err := r.stage(ctx, in)
	if err != nil {
		return Restored{}, errors.Join(err, removetree.All(r.Layout.Restoring()))
	}
	done := Restored{Manifest: in.Manifest, Replaced: r.aside()}
	if r.Before != nil {
		if err := r.Before(done); err != nil {
			return Restored{}, errors.Join(err, removetree.All(staged))
		}
	}
	done.Replaced, err = r.exchange(staged, done.Replaced)
	return done, err
}

// checkPlace refuses what would lose or divide something.
func (r Restore) checkPlace() error {
	l := r.Layout
	if hasState(l) && !r.Replace {
		return fmt.Errorf("%s has the state of a cluster: give --replace to put the snapshot in its place and keep it aside", l.Server())
	}
	if _, err := os.Lstat(l.ClusterCA()); err == nil && !hasState(l) {
		return fmt.Errorf("%s is that of an agent: uninstall it first, or give another --data-dir", l.Data())
	}
	for _, path := range []string{l.Server(), l.DB(), l.TLS()} {
		info, err := os.Lstat(path)
		if err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s is a link, in whose place a snapshot cannot be put: put the directory itself there, or mount it", path)
		}
		if err == nil && isMountPoint(path) {
			return fmt.Errorf("%s is a mount point, in whose place a snapshot cannot be put: unmount it first", path)
		}
	}
	return nil
}

// isMountPoint compares devices, which is enough for disks of their own.
func isMountPoint(path string) bool {
	var own, parent syscall.Stat_t
	return syscall.Lstat(path, &own) == nil && syscall.Lstat(filepath.Dir(path), &parent) == nil && own.Dev != parent.Dev
}

// stage unpacks the snapshot beside the state and makes it one that a start goes on from. The
// name is one that nothing reads.
func (r Restore) stage(ctx context.Context, in *reader) (string, error) {
	staged := r.Layout.Restoring()
	if err := removetree.All(staged); err != nil {
		return "", fmt.Errorf("restoring: removing what an interrupted one has left: %w", err)
	}
	if err := os.Mkdir(staged, 0o700); err != nil {
		return "", fmt.Errorf("restoring: %w", err)
	}
	place := func(path string) string {
		return filepath.Join(staged, strings.TrimPrefix(path, r.Layout.Server()))
	}
	err := in.files(r.Layout, func(f File, content io.Reader) error {
		return unpack(place(r.Layout.InData(f.Path)), f.Size, content)
	})
	if err != nil {
		return "", fmt.Errorf("%s %w", r.File, err)
	}
	return staged, r.settle(ctx, in.Manifest, place)
}

// settle checks what was unpacked and prepares it for the next start.
func (r Restore) settle(ctx context.Context, m Manifest, place func(string) string) error {
	cluster, err := token.CAHash(place(r.Layout.Cert(layout.ServerCA)))
	if err != nil || cluster != m.Cluster {
		return fmt.Errorf("%s is damaged: its CA is not that of its manifest", r.File)
	}
	c, err := datastore.CheckCopy(ctx, place(r.Layout.Database()))
	if err != nil {
		return err
	}
	if c.Damage != nil && m.Damage == "" || c.Revision != m.Revision {
		return fmt.Errorf("%s is damaged: its database has revision %d and not %d (%v)", r.File, c.Revision, m.Revision, c.Damage)
	}
	if err := datastore.PrepareRestored(place(r.Layout.DB()), c, cluster); err != nil {
		return err
	}
	if err := m.State.write(place(r.Layout.StateVersion())); err != nil {
		return err
	}
	for _, dir := range []string{r.Layout.DB(), r.Layout.TLS(), r.Layout.Server()} {
		if err := atomicfile.SyncDir(place(dir)); err != nil {
			return fmt.Errorf("restoring: %w", err)
		}
	}
	return nil
}

func unpack(path string, size int64, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(f, content)
	switch {
	case errors.Is(err, unix.ENOSPC):
		return errors.New("cannot be unpacked: the disk is full: free some space")
	case err != nil:
		return fmt.Errorf("is damaged or cut short, or cannot be unpacked: %w", err)
	case n != size:
		return fmt.Errorf("is cut short in %s", filepath.Base(path))
	}
	return f.Sync()
}

// aside returns where the present state will be kept, empty if there is none.
func (r Restore) aside() string {
	if _, err := os.Lstat(r.Layout.Server()); errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	return r.Layout.Replaced(time.Now().UTC().Format("20060102T150405.000Z"))
}

// exchange gives the staged state the place of the present one in one step. What was there has
// its later name before that: an interruption never leaves it under a name that is cleaned up.
func (r Restore) exchange(staged, aside string) (replaced string, err error) {
	server, data := r.Layout.Server(), r.Layout.Data()
	if aside == "" {
		if err := os.Rename(staged, server); err != nil {
			return "", fmt.Errorf("restoring: %w", err)
		}
		return "", atomicfile.SyncDir(data)
	}
	if err := os.Rename(staged, aside); err != nil {
		return "", fmt.Errorf("restoring: %w", err)
	}
	if err := unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, server, unix.RENAME_EXCHANGE); err != nil {
		return "", errors.Join(fmt.Errorf("restoring: this file system cannot exchange two directories (%w): move %s away and restore again", err, server), removetree.All(aside))
	}
	return aside, errors.Join(TakeOthers(r.Layout, aside), atomicfile.SyncDir(server), atomicfile.SyncDir(aside), atomicfile.SyncDir(data))
}

// TakeOthers moves what is no part of the state, such as a user's drivers of volumes, from the
// directory before to the present one. It may be called again.
func TakeOthers(l layout.Layout, before string) error {
	entries, err := os.ReadDir(before)
	if err != nil {
		return err
	}
	for _, e := range entries {
		rel := mustRel(l, filepath.Join(l.Server(), e.Name()))
		if path := l.InData(rel); path == l.DB() || path == l.TLS() || layout.DataName(rel) == layout.File {
			continue
		}
		if err := os.Rename(filepath.Join(before, e.Name()), l.InData(rel)); err != nil {
			return fmt.Errorf("restored, but %s is still in %s: move it back: %w", e.Name(), before, err)
		}
	}
	return nil
}
