package snapshot

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"brink/internal/testdisk"
	"brink/internal/testerror"
)

func begin(t *testing.T, s Start) error {
	t.Helper()
	s.Node, s.Log = "hub", slog.New(slog.DiscardHandler)
	return s.Begin(t.Context())
}

// On a full disk a later version does not start without a snapshot, and the one before does.
func TestBeginOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := testdisk.NewDisk(t, 24<<20)
	l, _ := newServer(t, filepath.Join(disk.Dir, "data"))
	fill(t, filepath.Join(disk.Dir, "filler"))
	testerror.OneLine(t, begin(t, Start{Layout: l, Own: State{"v1.36.3+brink.2", "v1.36.3", StateFormat}}), "--no-upgrade-snapshot")
	if err := begin(t, Start{Layout: l, Own: State{"v1.36.2+brink.1", "v1.36.2", StateFormat}}); err != nil {
		t.Errorf("the version before: %v", err)
	}
}

// The word that no snapshot is wanted is for one start of one version.
func TestBeginWithout(t *testing.T) {
	t.Parallel()
	l, _ := newServer(t, t.TempDir())
	if err := os.MkdirAll(l.Upgrade(), 0o700); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		word, version string
		want          int
	}{
		{"v1.36.3+brink.2", "v1.36.3+brink.2", 0},
		{"", "v1.36.3+brink.3", 1},
		{"v1.36.3+brink.9", "v1.36.3+brink.4", 2},
	} {
		if c.word != "" {
			if err := StartWithout(l, c.word); err != nil {
				t.Fatal(err)
			}
		}
		if i > 0 {
			write(t, l, "/registry/pods/"+c.version)
		}
		err := begin(t, Start{Layout: l, Own: State{c.version, "v1.36.3", StateFormat}})
		if list, listErr := List(l); err != nil || listErr != nil || len(list) != c.want {
			t.Errorf("%s: %d snapshots, want %d (%v, %v)", c.version, len(list), c.want, err, listErr)
		}
		if _, err := os.Lstat(l.NoSnapshot()); err == nil {
			t.Errorf("%s: the word is left", c.version)
		}
	}
}

// Whoever restores learns what will be kept where before anything has changed, and can refuse.
func TestRestoreTellsBefore(t *testing.T) {
	t.Parallel()
	l, last := newServer(t, t.TempDir())
	r := Restore{Layout: l, File: save(t, l), Own: own, Replace: true}
	var told Restored
	refused := errors.New("refused")
	r.Before = func(d Restored) error { told = d; return refused }
	if _, err := r.Run(t.Context()); !errors.Is(err, refused) || told.Revision != last {
		t.Errorf("%+v (%v)", told, err)
	}
	for _, path := range []string{told.Replaced, l.Restoring()} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is there", path)
		}
	}
	r.Before = func(d Restored) error { told = d; return nil }
	if done, err := r.Run(t.Context()); err != nil || done.Replaced != told.Replaced {
		t.Errorf("told %s, kept in %s (%v)", told.Replaced, done.Replaced, err)
	}
	if state, err := ReadReplaced(l, told.Replaced); err != nil || state != own {
		t.Errorf("%+v (%v)", state, err)
	}
}
