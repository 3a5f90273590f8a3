package images

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func stamps(names ...string) map[string]stamp {
	out := map[string]stamp{}
	for i, name := range names {
		out[name] = stamp{
			Size: int64(i + 1), Modified: time.Date(2026, 1, 2, 3, 4, 5, 678_901_234, time.UTC),
			Images: []Image{{Name: "docker.io/library/" + name + ":1", Digest: "sha256:0123"}},
		}
	}
	return out
}

func TestRecordSurvivesARestart(t *testing.T) {
	t.Parallel()
	r := readRecord(filepath.Join(t.TempDir(), "record.json"))
	if len(r.stamps) != 0 {
		t.Errorf("before the first import %v is known", r.stamps)
	}
	r.stamps = stamps("a.tar", "b.tar")
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	got := readRecord(r.path)
	if !reflect.DeepEqual(got.stamps, r.stamps) {
		t.Errorf("got %v\nwant %v", got.stamps, r.stamps)
	}
	if !got.names("docker.io/library/b.tar:1") || got.names("docker.io/library/c.tar:1") {
		t.Error("the record does not know its images")
	}
}

// TestRecordIsWrittenOnlyWhenChanged: a start without news costs no write to
// the flash card.
func TestRecordIsWrittenOnlyWhenChanged(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name          string
		before, after map[string]stamp
		written       bool
	}{
		{"new", nil, stamps("a.tar"), true},
		{"same", stamps("a.tar"), stamps("a.tar"), false},
		{"none", map[string]stamp{}, map[string]stamp{}, false},
		{"one more", stamps("a.tar"), stamps("a.tar", "b.tar"), true},
		{"one gone", stamps("a.tar", "b.tar"), stamps("a.tar"), true},
		{"another size", map[string]stamp{"a.tar": {Size: 1}}, map[string]stamp{"a.tar": {Size: 2}}, true},
	}
	for _, tt := range tests {
		path := filepath.Join(t.TempDir(), "record.json")
		earlier := readRecord(path)
		earlier.stamps = tt.before
		if err := earlier.write(); err != nil {
			t.Fatal(err)
		}
		info, existed := os.Stat(path)
		r := readRecord(path)
		r.stamps = tt.after
		if err := r.write(); err != nil {
			t.Fatal(err)
		}
		again, exists := os.Stat(path)
		written := exists == nil && (existed != nil || !os.SameFile(info, again))
		if written != tt.written {
			t.Errorf("%s: written is %t, want %t", tt.name, written, tt.written)
		}
	}
}

// TestDamagedRecord: everything is imported again, nothing fails.
func TestDamagedRecord(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "record.json")
	for _, text := range []string{"", "{", "null", "[1]", `{"a.tar": 3}`, `{"a.tar": {"size": "big"}}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r := readRecord(path)
		if len(r.stamps) > 0 {
			t.Errorf("%q: knows %v", text, r.stamps)
		}
		r.stamps["a.tar"] = stamp{Size: 1} // must not be a nil map
	}
}
