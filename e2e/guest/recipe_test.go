package guest

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestPrune(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	for name, days := range map[string]int{
		"systemd-1": 20, "systemd-2": 40, "uml-1": 40, "packed-1.gz": 2, "packed-2.gz": 0, "brink-guest-1": 50,
	} {
		path := filepath.Join(cache, name)
		then := time.Now().Add(-time.Duration(days) * 24 * time.Hour)
		if err := os.MkdirAll(filepath.Join(path, "inside"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(cache); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(cache)
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"brink-guest-1", "packed-2.gz", "systemd-1"}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left are %v, %v, want %v", left, err, want)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	before := Snapshot{"file /a": "1", "file /b": "1", "file /c/d": "1", "link x": ""}
	after := Snapshot{"file /a": "2", "file /c/d": "2", "link y": "", "process sh -c x": "."}
	got := before.Diff(after, "file /c/", "process ")
	want := []string{"changed  file /a: 1 => 2", "gone     file /b: 1", "gone     link x: ", "new      link y: "}
	if !slices.Equal(got, want) {
		t.Errorf("different are %q, want %q", got, want)
	}
}
