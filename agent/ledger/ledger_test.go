package ledger

import (
	"path/filepath"
	"slices"
	"testing"
)

func TestRecord(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "made")
	first := []Entry{{Dir, "/a b/c"}, {Cgroup, "/sys/x"}}
	for _, traces := range [][]Entry{first, first, {{Cgroup, "/sys/y"}, first[0]}} {
		if err := Record(path, traces...); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(path)
	if want := append(first, Entry{Cgroup, "/sys/y"}); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v (%v), want %v", got, err, want)
	}
	if got, err := Read(path + "none"); err != nil || len(got) > 0 {
		t.Errorf("no file: got %v, %v", got, err)
	}
}
