package join

import (
	"os"
	"path/filepath"
	"testing"
)

// What was seen is not forgotten: not when the watch begins again at a server that is
// behind, and not over a restart.
func TestSeenRevision(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "agent", "seen-revision")
	s := newSeen(path)
	if got := s.revision(); got != 0 {
		t.Errorf("a new node has seen %d", got)
	}
	latest := "100"
	s.follow(func() string { return latest })
	for _, step := range []struct {
		latest, begins string
		want           int64
	}{
		{"100", "", 100},
		{"100", "170", 170}, // after a bookmark that nobody had asked for in between
		{"90", "", 170},     // the server is behind
		{"", "0", 170},
		{"300", "x", 300},
	} {
		s.note(step.begins)
		latest = step.latest
		if got := s.revision(); got != step.want {
			t.Errorf("watch at %q, begins at %q: %d, want %d", step.latest, step.begins, got, step.want)
		}
	}
	s.save()
	if got := newSeen(path).revision(); got != 300 {
		t.Errorf("after a restart: %d, want 300", got)
	}
	if err := os.WriteFile(path, []byte("garbled"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := newSeen(path).revision(); got != 0 {
		t.Errorf("of a garbled file: %d", got)
	}
}
