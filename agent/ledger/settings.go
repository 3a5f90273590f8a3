package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brink/internal/layout"
)

// SysctlRoot is where the kernel shows its settings.
const SysctlRoot = "/proc/sys"

// unknown stands for the value of a change that has not been seen to its end.
const unknown = "?"

// Setting is a kernel setting that brink, or what it embeds, has changed: an entry
// of kind Sysctl.
type Setting struct {
	Path     string // below SysctlRoot
	Old, New string
}

func (s Setting) entry() Entry { return Entry{Sysctl, s.Path + " " + s.Old + " " + s.New} }

// Settings are those among entries.
func Settings(entries []Entry) []Setting {
	var out []Setting
	for _, e := range entries {
		if f := strings.Fields(e.Path); e.Kind == Sysctl && len(f) == 3 {
			out = append(out, Setting{f[0], f[1], f[2]})
		}
	}
	return out
}

// RecordSettings writes down the values that kernel settings have, before they are
// changed to others, by name: net/ipv4/ip_forward. One that has the other value is
// not going to be changed, and what was written down at an earlier start counts.
func RecordSettings(l layout.Layout, want map[string]string) error {
	return recordSettings(SysctlRoot, l, want)
}

// RecordUnknown is RecordSettings where the other values are not known: done is to
// be called when they have been set.
func RecordUnknown(l layout.Layout, names ...string) (done func() error, err error) {
	return recordUnknown(SysctlRoot, l, names...)
}

func recordUnknown(root string, l layout.Layout, names ...string) (done func() error, err error) {
	before, want := map[string]string{}, map[string]string{}
	for _, name := range names {
		if value, err := readSetting(filepath.Join(root, name)); err == nil {
			before[name], want[name] = value, unknown
		}
	}
	entries, err := Read(l.Made())
	if err != nil {
		return nil, err
	}
	// Unchanged since the last start, they are brink's.
	for _, s := range Settings(entries) {
		if name, err := filepath.Rel(root, s.Path); err == nil && before[name] == s.New {
			delete(want, name)
		}
	}
	done = func() error {
		now := map[string]string{}
		for name := range want {
			if value, err := readSetting(filepath.Join(root, name)); err == nil {
				now[name] = value
			}
		}
		return change(l, func(s Setting) (Setting, bool) {
			name, _ := filepath.Rel(root, s.Path)
			if value, ok := now[name]; ok && s.New == unknown {
				s.New = value
			}
			return s, s.New != s.Old
		})
	}
	return done, recordSettings(root, l, want)
}

func recordSettings(root string, l layout.Layout, want map[string]string) error {
	fresh := map[string]Setting{}
	for name, value := range want {
		path := filepath.Join(root, name)
		has, err := readSetting(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (has == value || len(strings.Fields(has)) != 1) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading a kernel setting: %w", err)
		}
		fresh[path] = Setting{path, has, value}
	}
	if len(fresh) == 0 {
		return nil
	}
	err := change(l, func(s Setting) (Setting, bool) {
		_, again := fresh[s.Path]
		return s, !again
	})
	if err != nil {
		return err
	}
	var entries []Entry
	for _, s := range fresh {
		entries = append(entries, s.entry())
	}
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return Record(l.Made(), entries...)
}

// change replaces what is written down of settings by what edit makes of it; it
// drops those that are not to be kept.
func change(l layout.Layout, edit func(Setting) (s Setting, keep bool)) error {
	mu.Lock()
	defer mu.Unlock()
	entries, err := Read(l.Made())
	if err != nil {
		return err
	}
	var out []Entry
	for _, e := range entries {
		s := Settings([]Entry{e})
		if len(s) == 0 {
			out = append(out, e)
			continue
		}
		if edited, keep := edit(s[0]); keep {
			out = append(out, edited.entry())
		}
	}
	if slices.Equal(out, entries) {
		return nil
	}
	return write(l.Made(), out)
}

// PutBack gives a setting its old value, when it still has brink's.
func (s Setting) PutBack() (changed bool, err error) {
	has, err := readSetting(s.Path)
	if err != nil || has != s.New {
		return false, nil // another's by now, or gone with its link
	}
	if err := os.WriteFile(s.Path, []byte(s.Old), 0); err != nil {
		return false, fmt.Errorf("putting a kernel setting back: %w", err)
	}
	return true, nil
}

// Name is the setting as sysctl(8) has it.
func (s Setting) Name() string {
	return strings.ReplaceAll(strings.TrimPrefix(s.Path, SysctlRoot+"/"), "/", ".")
}

func readSetting(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}
