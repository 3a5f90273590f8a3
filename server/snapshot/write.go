package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"

	"brink/datastore"
	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/server/token"
)

// Source is what a snapshot is made of.
type Source struct {
	Layout layout.Layout
	// InUse says that the caller is the server that has the database open. Otherwise the
	// caller holds the data directory's lock.
	InUse  bool
	Node   string
	MadeBy string
	Before string // see Manifest
}

// Taken is the state of one moment, checked, from which a snapshot can be written. It holds
// a copy of the database until it is closed.
type Taken struct {
	Manifest Manifest
	small    map[string][]byte // the content of all files but the database
	copied   *os.File
	database string
	unlock   func()
}

// ErrBusy is returned while another snapshot of the same data is being made.
var ErrBusy = errors.New("another snapshot is being made: try again when it is done")

// Take copies the state.
func Take(ctx context.Context, src Source) (*Taken, error) {
	t := &Taken{database: mustRel(src.Layout, src.Layout.Database())}
	var err error
	if t.unlock, err = lockSnapshots(src.Layout); err != nil {
		return nil, err
	}
	if err := t.copy(ctx, src); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func (t *Taken) copy(ctx context.Context, src Source) error {
	l := src.Layout
	c, err := datastore.Backup(ctx, l.DB(), l.SnapshotCopy(), src.InUse)
	if err != nil {
		return err
	}
	if t.copied, err = os.Open(l.SnapshotCopy()); err != nil {
		return err
	}
	t.Manifest = Manifest{Format: Format, MadeBy: src.MadeBy, Node: src.Node, Made: time.Now().UTC().Round(time.Second), Before: src.Before, Revision: c.Revision}
	if c.Damage != nil {
		t.Manifest.Damage = oneLine(c.Damage)
	}
	if t.Manifest.State, err = ReadState(l); err != nil {
		return err
	}
	if t.Manifest.Cluster, err = token.CAHash(l.Cert(layout.ServerCA)); err != nil {
		return err
	}
	if t.small, err = readSmall(l); err != nil {
		return err
	}
	return t.list()
}

func oneLine(err error) string {
	return string(bytes.ReplaceAll([]byte(err.Error()), []byte("\n"), []byte("; ")))
}

// lockSnapshots makes the directory and takes it: a copy that a killed brink has left may be
// removed then.
func lockSnapshots(l layout.Layout) (unlock func(), err error) {
	if err := os.MkdirAll(l.Snapshots(), 0o700); err != nil {
		return nil, fmt.Errorf("making a snapshot: %w", err)
	}
	dir, err := os.Open(l.Snapshots())
	if err != nil {
		return nil, fmt.Errorf("making a snapshot: %w", err)
	}
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, fmt.Errorf("making a snapshot: locking %s: %w", l.Snapshots(), err)
	}
	if err := os.Remove(l.SnapshotCopy()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		dir.Close()
		return nil, err
	}
	return func() { dir.Close() }, nil
}

// Close removes the copy of the database.
func (t *Taken) Close() {
	if t.copied != nil {
		os.Remove(t.copied.Name())
		t.copied.Close()
	}
	t.unlock()
}

// mustRel returns a path of the layout relative to the data directory, below which it is.
func mustRel(l layout.Layout, path string) string {
	rel, err := filepath.Rel(l.Data(), path)
	if err != nil {
		return path
	}
	return rel
}

// readSmall reads the files beside the database, until two readings are the same: a
// certificate and its key are two files, and may be renewed between the two.
func readSmall(l layout.Layout) (files map[string][]byte, err error) {
	for before := (map[string][]byte)(nil); ; before = files {
		if files, err = readSmallOnce(l); err != nil || same(before, files) {
			return files, err
		}
	}
}

func same(a, b map[string][]byte) bool {
	for path, content := range b {
		if has, ok := a[path]; !ok || !bytes.Equal(has, content) {
			return false
		}
	}
	return len(a) == len(b)
}

func readSmallOnce(l layout.Layout) (map[string][]byte, error) {
	paths := []string{l.ServerToken(), l.StateVersion(), l.SavedRevision()}
	entries, err := os.ReadDir(l.TLS())
	if err != nil {
		return nil, fmt.Errorf("reading the certificates: %w", err)
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(l.TLS(), e.Name()))
	}
	files := map[string][]byte{}
	for _, path := range paths {
		rel := mustRel(l, path)
		if !isPart(l, rel) {
			continue // a file of the user's, or a write that was interrupted
		}
		content, err := atomicfile.ReadTarget(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		files[rel] = content
	}
	return files, nil
}

// isPart reports whether a path relative to the data directory may be in a snapshot.
func isPart(l layout.Layout, rel string) bool {
	if layout.DataName(rel) != layout.File || filepath.Base(rel)[0] == '.' {
		return false
	}
	path := l.InData(rel)
	return filepath.Dir(path) == l.TLS() || slices.Contains([]string{l.ServerToken(), l.StateVersion(), l.Database(), l.SavedRevision()}, path)
}

// list fills in the files of the manifest, the database last.
func (t *Taken) list() error {
	for _, path := range sortedKeys(t.small) {
		sum := sha256.Sum256(t.small[path])
		t.Manifest.Files = append(t.Manifest.Files, File{Path: path, Size: int64(len(t.small[path])), SHA256: hex.EncodeToString(sum[:])})
	}
	hash := sha256.New()
	size, err := io.Copy(hash, t.copied)
	if err != nil {
		return fmt.Errorf("reading the copy of the database: %w", err)
	}
	t.Manifest.Files = append(t.Manifest.Files, File{Path: t.database, Size: size, SHA256: hex.EncodeToString(hash.Sum(nil))})
	return nil
}

// Write writes the snapshot. It may be called again.
func (t *Taken) Write(w io.Writer) error {
	if _, err := t.copied.Seek(0, io.SeekStart); err != nil {
		return err
	}
	// One thread and a window of 1 MiB: it has to fit a board beside a running node.
	packed, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	archive := tar.NewWriter(packed)
	if err := t.writeEntries(archive); err != nil {
		return errors.Join(err, packed.Close())
	}
	return errors.Join(archive.Close(), packed.Close())
}

func (t *Taken) writeEntries(archive *tar.Writer) error {
	manifest, err := json.MarshalIndent(t.Manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := t.writeEntry(archive, manifestName, int64(len(manifest)), bytes.NewReader(manifest)); err != nil {
		return err
	}
	for _, f := range t.Manifest.Files {
		var content io.Reader = bytes.NewReader(t.small[f.Path])
		if f.Path == t.database {
			content = t.copied
		}
		if err := t.writeEntry(archive, f.Path, f.Size, content); err != nil {
			return err
		}
	}
	return nil
}

func (t *Taken) writeEntry(archive *tar.Writer, path string, size int64, content io.Reader) error {
	header := &tar.Header{Name: path, Mode: 0o600, Size: size, ModTime: t.Manifest.Made, Format: tar.FormatPAX}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}
