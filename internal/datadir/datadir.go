// Package datadir knows whether a directory is brink's, and makes it so.
//
// Proof is the mark, a file with content of ours that is the first thing written.
// A directory gets it only while it is empty, or holds nothing but what the table
// in package layout lets users lay there before the first start. Names prove
// nothing: "agent", "server" and "data" are everybody's. What was laid there is
// listed in the mark and stays the user's.
//
// A directory of a brink that knew no mark yet gets one when what only brink makes
// is in it and fits together; see adoptable.
//
// Links in the path of the data directory are resolved here, once, for everything
// else: the kernel's tables of mounts and programs name what they lead to, and
// upstream compares paths with these as they are. The mark remembers the run
// directory, so that pods are found again that were started under another
// spelling of the path.
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

// AgentMode is that of the agent's directory, whoever comes first to use it. The
// root of a pod in a user namespace must be able to pass, nobody to look around.
const AgentMode fs.FileMode = 0o711

// system are directories that are no data directory whatever lies in them.
var system = []string{"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc",
	"/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var", "/var/lib", "/var/log", "/var/run", "/var/tmp",
	layout.ConfigDir, "/var/lib/kubelet"}

// Locate returns the layout of a data directory, which need not exist, by any
// spelling of its path.
func Locate(dir string) layout.Layout {
	dir = filepath.Clean(dir)
	real := Resolve(dir)
	if m, err := readMark(layout.New(real).Mark()); err == nil && m.data == real {
		return layout.At(real, m.run)
	}
	if dir == layout.DefaultData || real == Resolve(layout.DefaultData) {
		return layout.At(real, layout.RunOf(layout.DefaultData))
	}
	// A brink that did not resolve links has left its pods there.
	if old := layout.RunOf(dir); dir != real && exists(old) {
		return layout.At(real, old)
	}
	return layout.New(real)
}

// Resolve follows links as far as the path exists.
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

// CheckSystem refuses directories of the system.
func CheckSystem(l layout.Layout) error {
	if dir := Resolve(l.Data()); slices.Contains(system, dir) {
		return fmt.Errorf("--data-dir=%s is a directory of the system: give one of brink's own, such as %s", dir, filepath.Join(dir, "brink"))
	}
	return nil
}

// IsMarked tells whether a directory is brink's.
func IsMarked(l layout.Layout) bool {
	_, err := readMark(l.Mark())
	return err == nil
}

// Check says why brink may not keep its data in a directory. Nothing is changed.
func Check(l layout.Layout) error {
	if err := CheckSystem(l); err != nil {
		return err
	}
	if IsMarked(l) {
		return nil
	}
	_, inTheWay, err := look(l)
	if err != nil {
		return fmt.Errorf("--data-dir=%s: %w", l.Data(), err)
	}
	if len(inTheWay) == 0 || adoptable(l) {
		return nil
	}
	return fmt.Errorf("--data-dir=%s holds what brink did not put there (%s): give an empty directory, such as %s",
		l.Data(), some(inTheWay), l.InData("brink"))
}

// Owns tells whether a directory is brink's: it is marked, or an older brink's.
func Owns(l layout.Layout) bool { return IsMarked(l) || adoptable(l) }

// Claim makes a directory brink's that Check lets pass. The caller holds its lock.
func Claim(l layout.Layout) error {
	if err := Check(l); err != nil {
		return err
	}
	m, err := readMark(l.Mark())
	if err != nil {
		m = mark{}
		if !adoptable(l) {
			if m.laid, _, err = look(l); err != nil {
				return fmt.Errorf("--data-dir=%s: %w", l.Data(), err)
			}
			m.links = links(l)
		}
	}
	m.data, m.run = l.Data(), l.Run()
	if err := atomicfile.Keep(l.Mark(), []byte(m.text()), 0o644); err != nil {
		return fmt.Errorf("marking the data directory as brink's: %w", err)
	}
	return nil
}

// MakeAgent makes the agent's directory, or gives it its mode.
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

// CopyOf returns the directory of which this one is a copy: its mark was written there.
// A start makes it a node of its own.
func CopyOf(l layout.Layout) (original string, isCopy bool) {
	m, err := readMark(l.Mark())
	return m.data, err == nil && m.data != l.Data()
}

// Laid are the paths, relative to the data directory, that were there before brink.
func Laid(l layout.Layout) []string {
	m, _ := readMark(l.Mark())
	return m.laid
}

// Links are those to directories that were empty before brink, by their path
// relative to the data directory.
func Links(l layout.Layout) map[string]string {
	m, _ := readMark(l.Mark())
	return m.links
}

// links finds them, in a directory that look has nothing against.
func links(l layout.Layout) map[string]string {
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

// look lists the files in a directory without a mark: those that may have been laid
// there, and those in the way. Directories that brink uses too may be there empty.
func look(l layout.Layout) (laid, inTheWay []string, err error) {
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
		case layout.MayBeLaid(rel) && (kind != layout.Directory || leadsToDirectory(path)):
			laid = append(laid, rel)
			return skip(d)
		default:
			inTheWay = append(inTheWay, rel)
			return skip(d)
		}
		return nil
	})
	return laid, inTheWay, err
}

func isProbe(rel string) bool {
	digits, ok := strings.CutPrefix(rel, layout.OverlayProbe)
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// hasNoFiles tells that there are directories only, as in what a check leaves.
func hasNoFiles(dir string) bool {
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = fs.ErrExist
		}
		return err
	})
	return err == nil
}

// isUnfinished tells a mark whose writing was cut off.
func isUnfinished(rel string) bool {
	return layout.DataName(rel) == layout.File && strings.HasPrefix(rel, "."+layout.MarkFile+".")
}

func skip(d fs.DirEntry) error {
	if d.IsDir() {
		return fs.SkipDir
	}
	return nil
}

// isVacant tells that a directory may be used: WalkDir looks into a real one, behind
// a link to one nothing may lie.
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

// isLock tells whether a file is the lock: it holds a process id, or nothing.
func isLock(path string) bool {
	const most = 16
	text, err := atomicfile.ReadHead(path, most+1)
	if err != nil || len(text) > most {
		return false
	}
	_, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil || len(text) == 0
}

// Show is a path as it is told: in quotes where it would break a line.
func Show(path string) string {
	isBad := func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
	if strings.ContainsFunc(path, isBad) {
		return strconv.Quote(path)
	}
	return path
}

// some names the first of many.
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
