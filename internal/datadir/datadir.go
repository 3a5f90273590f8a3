// Package datadir decides whether a data directory is brink's, and marks it as such.
//
// The proof is the mark, a file that is written before everything else. A directory gets it
// only while it is empty, or holds nothing but what users may put there before the first
// start, by the table in package layout. Names prove nothing: anybody may have directories
// called "agent", "server" and "data". What users had put there is listed in the mark and
// stays theirs.
//
// A directory of an older brink, which wrote no mark, gets one if it holds what only brink
// makes and its parts fit together; see adoptable.
//
// Links in the path of the data directory are resolved here, once, for everything else: the
// kernel's tables of mounts and programs have the resolved paths, and upstream compares
// paths with these as they are. The mark has the run directory, so that pods are found
// again that were started under another spelling of the path.
package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"brink/internal/atomicfile"
	"brink/internal/layout"
)

// AgentMode is the mode of the agent's directory, whichever component creates it. The root
// of a pod in a user namespace must be able to pass through it, and nobody to list it.
const AgentMode fs.FileMode = 0o711

// system are directories that cannot be a data directory, whatever is in them.
var system = []string{"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc",
	"/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var", "/var/lib", "/var/log", "/var/run", "/var/tmp",
	layout.ConfigDir, "/var/lib/kubelet"}

// Locate returns the layout of a data directory, by any spelling of its path. The directory
// need not exist.
func Locate(dir string) layout.Layout {
	dir = filepath.Clean(dir)
	real := Resolve(dir)
	if m, err := readMark(layout.New(real).Mark()); err == nil && m.data == real {
		return layout.At(real, m.run)
	}
	if dir == layout.DefaultData || real == Resolve(layout.DefaultData) {
		return layout.At(real, layout.RunOf(layout.DefaultData))
	}
	// An older brink, which did not resolve links, has its pods there.
	if old := layout.RunOf(dir); dir != real && exists(old) {
		return layout.At(real, old)
	}
	return layout.New(real)
}

// Resolve resolves links as far as the path exists.
func Resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(Resolve(dir), filepath.Base(path))
	}
	return path
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// CheckSystem returns an error for directories of the system.
func CheckSystem(l layout.Layout) error {
	if dir := Resolve(l.Data()); slices.Contains(system, dir) {
		return fmt.Errorf("--data-dir=%s is a directory of the system: give one of brink's own, such as %s", dir, filepath.Join(dir, "brink"))
	}
	return nil
}

// IsMarked reports whether a directory has brink's mark.
func IsMarked(l layout.Layout) bool {
	_, err := readMark(l.Mark())
	return err == nil
}

// Check returns why brink may not keep its data in a directory. It changes nothing.
func Check(l layout.Layout) error {
	if err := CheckSystem(l); err != nil {
		return err
	}
	if IsMarked(l) {
		return nil
	}
	_, inTheWay, err := inspect(l)
	if err != nil {
		return fmt.Errorf("--data-dir=%s: %w", l.Data(), err)
	}
	if len(inTheWay) == 0 || adoptable(l) {
		return nil
	}
	return fmt.Errorf("--data-dir=%s holds what brink did not put there (%s): give an empty directory, such as %s",
		l.Data(), some(inTheWay), l.InData("brink"))
}

// Owns reports whether a directory is brink's: it is marked, or an older brink's.
func Owns(l layout.Layout) bool { return IsMarked(l) || adoptable(l) }

// Claim marks a directory as brink's if Check accepts it. The caller holds its lock.
func Claim(l layout.Layout) error {
	if err := Check(l); err != nil {
		return err
	}
	m, err := readMark(l.Mark())
	if err != nil {
		m = mark{}
		if !adoptable(l) {
			if m.preexisting, _, err = inspect(l); err != nil {
				return fmt.Errorf("--data-dir=%s: %w", l.Data(), err)
			}
			m.links = findLinks(l)
		}
	}
	m.data, m.run = l.Data(), l.Run()
	if err := atomicfile.Keep(l.Mark(), []byte(m.text()), 0o644); err != nil {
		return fmt.Errorf("marking the data directory as brink's: %w", err)
	}
	return nil
}

// MakeAgent creates the agent's directory, or corrects its mode.
func MakeAgent(l layout.Layout) error {
	if err := os.MkdirAll(l.Agent(), AgentMode); err != nil {
		return fmt.Errorf("making the agent's directory: %w", err)
	}
	info, err := os.Stat(l.Agent())
	if err == nil && info.Mode().Perm() != AgentMode {
		err = os.Chmod(l.Agent(), AgentMode)
	}
	if err != nil {
		return fmt.Errorf("making the agent's directory: %w", err)
	}
	return nil
}

// CopyOf returns the directory of which this one is a copy: the mark was written for that
// one. A start makes the copy a node of its own.
func CopyOf(l layout.Layout) (original string, isCopy bool) {
	m, err := readMark(l.Mark())
	return m.data, err == nil && m.data != l.Data()
}

// Preexisting returns what users had put into the data directory before brink's first start,
// as paths relative to it. It stays theirs.
func Preexisting(l layout.Layout) []string {
	m, _ := readMark(l.Mark())
	return m.preexisting
}

// Links returns the links to directories that were there, empty, before brink, with their
// targets. Paths are relative to the data directory.
func Links(l layout.Layout) map[string]string {
	m, _ := readMark(l.Mark())
	return m.links
}

// findLinks finds the links of Links in a directory that inspect has found usable.
func findLinks(l layout.Layout) map[string]string {
	out := map[string]string{}
	_ = filepath.WalkDir(l.Data(), func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(l.Data(), path)
		if err == nil && d.Type()&fs.ModeSymlink != 0 && layout.DataName(rel) == layout.Directory && isVacant(path, d) {
			out[rel] = Resolve(path)
		}
		return nil
	})
	return out
}

// inspect lists the files in a directory without a mark: those that users may have put
// there, and those in the way. Directories that brink uses may be there if they are empty.
func inspect(l layout.Layout) (preexisting, inTheWay []string, err error) {
	err = filepath.WalkDir(l.Data(), func(path string, d fs.DirEntry, err error) error {
		if path == l.Data() && errors.Is(err, fs.ErrNotExist) {
			return fs.SkipAll
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(l.Data(), path)
		kind := layout.DataName(rel)
		switch {
		case rel == "." && !d.IsDir():
			return errors.New("not a directory: give another")
		case rel == "." || path == l.Lock() && isLock(path) || kind == layout.Directory && isVacant(path, d):
		case isProbe(rel) && d.IsDir() && hasNoFiles(path) || isUnfinished(rel) && d.Type().IsRegular():
			return skip(d)
		case layout.MayPreexist(rel) && (kind != layout.Directory || leadsToDirectory(path)):
			preexisting = append(preexisting, rel)
			return skip(d)
		default:
			inTheWay = append(inTheWay, rel)
			return skip(d)
		}
		return nil
	})
	return preexisting, inTheWay, err
}

func isProbe(rel string) bool {
	digits, ok := strings.CutPrefix(rel, layout.OverlayProbe)
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// hasNoFiles reports whether there are only directories, as in what a check leaves.
func hasNoFiles(dir string) bool {
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = fs.ErrExist
		}
		return err
	})
	return err == nil
}

// isUnfinished reports whether a file is a mark whose writing was interrupted.
func isUnfinished(rel string) bool {
	return layout.DataName(rel) == layout.File && strings.HasPrefix(rel, "."+layout.MarkFile+".")
}

func skip(d fs.DirEntry) error {
	if d.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// isVacant reports whether a directory may be used. WalkDir checks what is in a real one; a
// link must lead to an empty one.
func isVacant(path string, d fs.DirEntry) bool {
	if d.IsDir() {
		return true
	}
	entries, err := os.ReadDir(path)
	isOther := func(e fs.DirEntry) bool { return e.Name() != "lost+found" }
	return err == nil && d.Type()&fs.ModeSymlink != 0 && !slices.ContainsFunc(entries, isOther)
}

// leadsToDirectory follows links: where brink looks for a user's files it finds a
// directory, not a pipe from which nothing ever comes.
func leadsToDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// isLock reports whether a file is the lock: it holds a process id, or nothing.
func isLock(path string) bool {
	const most = 16
	text, err := atomicfile.ReadHead(path, most+1)
	if err != nil || len(text) > most {
		return false
	}
	_, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil || len(text) == 0
}

// Show returns a path for a message: in quotes where it would break the line.
func Show(path string) string {
	isBad := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	if strings.ContainsFunc(path, isBad) {
		return strconv.Quote(path)
	}
	return path
}

// some returns the first of many names.
func some(names []string) string {
	const most = 3
	names = slices.Clone(names)
	for i, name := range names {
		names[i] = Show(name)
	}
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
