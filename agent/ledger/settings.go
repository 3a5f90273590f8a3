package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"brink/internal/layout"
)

// SysctlRoot is the directory of the kernel's settings.
const SysctlRoot = "/proc/sys"

// unknown is the new value of a setting whose change was not observed to its end.
const unknown = "?"

// Setting is a kernel setting that brink, or what it embeds, has changed. It is an entry
// of kind Sysctl.
type Setting struct {
	Path     string // below SysctlRoot
	Old, New string
}

func (s Setting) entry() Entry { return Entry{Sysctl, s.Path + " " + s.Old + " " + s.New} }

// Settings returns the kernel settings among entries.
func Settings(entries []Entry) []Setting {
	var out []Setting
	for _, e := range entries {
		if f := strings.Fields(e.Path); e.Kind == Sysctl && len(f) == 3 {
			out = append(out, Setting{f[0], f[1], f[2]})
		}
	}
	return out
}

// RecordSettings records the present values of kernel settings that are about to be
// changed to those of want, by name: net/ipv4/ip_forward. A setting that has the wanted
// value is not going to be changed, and what an earlier start has recorded stays.
func RecordSettings(l layout.Layout, want map[string]string) error {
	return recordSettings(SysctlRoot, l, want)
}

// RecordUnknown is RecordSettings for new values that are not known yet. done must be
// called when they have been set, also after an error.
func RecordUnknown(l layout.Layout, names ...string) (done func() error, err error) {
	return recordUnknown(SysctlRoot, l, names...)
}

func recordUnknown(root string, l layout.Layout, names ...string) (done func() error, err error) {
	done = func() error { return recordChanged(root, l, names) }
	entries, err := Read(l.Made())
	if err != nil {
		return done, err
	}
	want := map[string]string{}
	for _, name := range names {
		path := filepath.Join(root, name)
		value, err := readSetting(path)
		// With the new value it is brink's of the last start, with the old one it is the
		// machine's after a reboot: both are recorded.
		isWritten := func(s Setting) bool { return s.Path == path && (value == s.New || value == s.Old) }
		if err == nil && !slices.ContainsFunc(Settings(entries), isWritten) {
			want[name] = unknown
		}
	}
	return done, recordSettings(root, l, want)
}

// recordChanged completes the entries of settings by the values that they have now.
func recordChanged(root string, l layout.Layout, names []string) error {
	now := map[string]string{}
	for _, name := range names {
		path := filepath.Join(root, name)
		if value, err := readSetting(path); err == nil {
			now[path] = value
		}
	}
	return change(l, nil, func(s Setting) (Setting, bool) {
		if value, ok := now[s.Path]; ok {
			s.New = value
		}
		return s, true // also if it is unchanged: else the entry comes and goes with each start
	})
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
	return change(l, fresh, func(s Setting) (Setting, bool) {
		if again, ok := fresh[s.Path]; ok {
			return again, true
		}
		return s, true
	})
}

// change replaces the entries of settings by what edit returns, drops those that edit does
// not keep, and adds the fresh ones. It writes the file only if that changes something:
// after a reboot the file has the entries already.
func change(l layout.Layout, fresh map[string]Setting, edit func(Setting) (s Setting, keep bool)) error {
	mu.Lock()
	defer mu.Unlock()
	entries, err := Read(l.Made())
	if err != nil {
		return err
	}
	var out []Entry
	has := map[string]bool{}
	for _, e := range entries {
		s := Settings([]Entry{e})
		if len(s) == 0 {
			out = append(out, e)
			continue
		}
		if edited, keep := edit(s[0]); keep && !has[s[0].Path] {
			out, has[s[0].Path] = append(out, edited.entry()), true
		}
	}
	for _, path := range slices.Sorted(maps.Keys(fresh)) {
		if !has[path] {
			out = append(out, fresh[path].entry())
		}
	}
	if slices.Equal(out, entries) {
		return nil
	}
	return write(l.Made(), out)
}

// PutBack gives a setting its old value if it still has brink's.
func (s Setting) PutBack() (changed bool, err error) {
	has, err := readSetting(s.Path)
	if err != nil || has != s.New || s.New == s.Old {
		return false, nil // changed by others since, or gone with its link, or never changed
	}
	if err := os.WriteFile(s.Path, []byte(s.Old), 0); err != nil {
		return false, fmt.Errorf("putting a kernel setting back: %w", err)
	}
	return true, nil
}

// Name returns the setting's name in the form of sysctl(8).
func (s Setting) Name() string {
	return strings.ReplaceAll(strings.TrimPrefix(s.Path, SysctlRoot+"/"), "/", ".")
}

func readSetting(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}
