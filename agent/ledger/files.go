package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// Text is the kind of entries of a TextFile.
const Text = "text"

// TextFile is a file in a directory of the machine's, such as /etc. It is brink's only
// while it has the content that brink gave it.
type TextFile struct{ Path, sum string }

func (f TextFile) entry() Entry { return Entry{Text, f.sum + " " + f.Path} }

func textFile(path, text string) TextFile {
	sum := sha256.Sum256([]byte(text))
	return TextFile{path, hex.EncodeToString(sum[:])}
}

// TextFiles returns the files of kind Text among entries. One that was written with several
// contents is there several times.
func TextFiles(entries []Entry) []TextFile {
	var out []TextFile
	for _, e := range entries {
		if sum, path, ok := strings.Cut(e.Path, " "); ok && e.Kind == Text {
			out = append(out, TextFile{path, sum})
		}
	}
	return out
}

// isUnchanged reports whether the file still has the content that brink gave it.
func (f TextFile) isUnchanged() bool {
	text, err := atomicfile.Read(f.Path)
	return err == nil && textFile(f.Path, string(text)) == f
}

// PutFile makes a file with a text in a directory of the machine's, which must exist, and
// records it before. A file that is there already is another's and stays as it is, unless
// brink has made it and nobody has changed it since. PutFile reports whether it has written
// the file.
func PutFile(l layout.Layout, path, text string) (written bool, err error) {
	entries, err := Read(l.Made())
	if err != nil {
		return false, err
	}
	want := textFile(path, text)
	if want.isUnchanged() {
		return false, nil
	}
	if _, err := os.Lstat(path); err == nil && !isOwnText(entries, path) {
		return false, nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("looking at %s: %w", path, err)
	}
	if err := Record(l.Made(), want.entry()); err != nil {
		return false, err
	}
	return true, atomicfile.Write(path, []byte(text), 0o644)
}

func isOwnText(entries []Entry, path string) bool {
	for _, f := range TextFiles(entries) {
		if f.Path == path && f.isUnchanged() {
			return true
		}
	}
	return false
}

// Remove removes the file if it is unchanged, and what a process that died while writing it
// left. It reports whether it removed the file.
func (f TextFile) Remove() (removed bool, err error) {
	err = atomicfile.Clean(filepath.Dir(f.Path), filepath.Base(f.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !f.isUnchanged() {
		return false, err
	}
	if err := os.Remove(f.Path); err != nil {
		return false, fmt.Errorf("removing files: %w", err)
	}
	return true, nil
}
