package runtime

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestArchivesIn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, file := range []string{"b.tar", "a.tar.gz", "c.tgz", "d.tar.zst", "e.tzst", "with space.tar", "tar", "notes.txt", "f.tar.part", "g.TAR"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "unpacked.tar"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Archives are often links to another disk.
	if err := os.Symlink("/media/usb/images", filepath.Join(dir, "z.tar")); err != nil {
		t.Fatal(err)
	}
	got, err := archivesIn(dir)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, file := range []string{"a.tar.gz", "b.tar", "c.tgz", "d.tar.zst", "e.tzst", "with space.tar", "z.tar"} {
		want = append(want, filepath.Join(dir, file))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestArchivesInNoDirectory(t *testing.T) {
	t.Parallel()
	if got, err := archivesIn(filepath.Join(t.TempDir(), "missing")); err != nil || len(got) > 0 {
		t.Errorf("a missing directory: %q, %v, want none", got, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := archivesIn(file); err == nil {
		t.Error("a file is taken for an empty directory")
	}
}

// TestImportDirWithoutArchives: nothing to import needs no containerd.
func TestImportDirWithoutArchives(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "containerd")
	a := Archives{Socket: filepath.Join(t.TempDir(), "nobody.sock"), Root: root}
	if err := a.ImportDir(t.Context(), filepath.Join(t.TempDir(), "images")); err != nil {
		t.Error(err)
	}
}

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

func TestStampsSurviveARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "record.json")
	if known := readStamps(path); len(known) != 0 {
		t.Errorf("before the first import %v is known", known)
	}
	want := stamps("a.tar", "b.tar")
	if err := writeStamps(path, nil, want); err != nil {
		t.Fatal(err)
	}
	if got := readStamps(path); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

// TestStampsAreWrittenOnlyWhenChanged: a start without news costs no write to
// the flash card.
func TestStampsAreWrittenOnlyWhenChanged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "record.json")
	tests := []struct {
		name           string
		known, current map[string]stamp
		written        bool
	}{
		{"new", nil, stamps("a.tar"), true},
		{"same", stamps("a.tar"), stamps("a.tar"), false},
		{"none", map[string]stamp{}, map[string]stamp{}, false},
		{"one more", stamps("a.tar"), stamps("a.tar", "b.tar"), true},
		{"one gone", stamps("a.tar", "b.tar"), stamps("a.tar"), true},
		{"another size", map[string]stamp{"a.tar": {Size: 1}}, map[string]stamp{"a.tar": {Size: 2}}, true},
	}
	for _, tt := range tests {
		os.Remove(path)
		if err := writeStamps(path, tt.known, tt.current); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); (err == nil) != tt.written {
			t.Errorf("%s: written is %t, want %t", tt.name, err == nil, tt.written)
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
		known := readStamps(path)
		if s := known["a.tar"]; s.Size != 0 || len(s.Images) > 0 {
			t.Errorf("%q: knows %v", text, known)
		}
	}
}

// archive writes an image archive, compressed when the name says so.
func archive(t *testing.T, path, ref string) {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var w io.Writer = f
	switch filepath.Ext(path) {
	case ".gz":
		z := gzip.NewWriter(f)
		defer z.Close()
		w = z
	case ".zst":
		z, err := zstd.NewWriter(f)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		w = z
	}
	if err := tarball.Write(tag, busybox(t), w); err != nil {
		t.Fatal(err)
	}
}

// TestImportDir is the whole way against a real containerd: import, no second
// import, a changed archive, an image that was removed, damaged archives.
func TestImportDir(t *testing.T) {
	n := newNode(t)
	n.start()
	t.Cleanup(func() { n.stop() })
	dir := filepath.Join(filepath.Dir(n.cfg.Root), "images")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	one := filepath.Join(dir, "1.tar")
	archive(t, one, "test.local/one:1")
	archive(t, filepath.Join(dir, "2.tar.gz"), "test.local/two:1")
	archive(t, filepath.Join(dir, "4.tar.zst"), "test.local/four:1")
	for name, text := range map[string]string{"0-damaged.tar": "not an archive", "3-empty.tar": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}
	importDir := func() {
		t.Helper()
		if err := a.ImportDir(n.context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	importDir()
	n.waitImage("test.local/one:1", true)
	n.waitImage("test.local/two:1", true)
	n.waitImage("test.local/four:1", true)

	record := filepath.Join(filepath.Dir(n.cfg.Root), "imported-images.json")
	if known := readStamps(record); len(known) != 3 || known[one].Images[0].Name != "test.local/one:1" {
		t.Errorf("the record knows %v, want the three good archives", known)
	}
	written, err := os.Stat(record)
	if err != nil {
		t.Fatal(err)
	}
	importDir() // nothing new
	if again, err := os.Stat(record); err != nil || !again.ModTime().Equal(written.ModTime()) {
		t.Errorf("a start without news has written the record: %v", err)
	}

	archive(t, one, "test.local/one:2") // a new version in place
	if _, err := n.images().RemoveImage(n.context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "test.local/two:1"}}); err != nil {
		t.Fatal(err)
	}
	n.waitImage("test.local/two:1", false)
	importDir()
	n.waitImage("test.local/one:2", true)
	n.waitImage("test.local/two:1", true)
}

// waitImage waits until the CRI lists an image, or no longer does.
func (n *node) waitImage(ref string, there bool) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		status, err := n.images().ImageStatus(n.context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		if err != nil {
			n.t.Fatal(err)
		}
		if (status.Image != nil) == there {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("image %s: listed is %t, want %t", ref, !there, there)
		}
	}
}

func TestImportErrors(t *testing.T) {
	t.Parallel()
	a := Archives{Socket: filepath.Join(t.TempDir(), "nobody.sock")}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := a.Import(ctx, "x.tar"); err == nil {
		t.Error("imported without a containerd")
	}
}

// TestImportSaysWhatIsWrong: one line with the archive's name.
func TestImportSaysWhatIsWrong(t *testing.T) {
	n := newNode(t)
	n.start()
	t.Cleanup(func() { n.stop() })
	dir := t.TempDir()
	damaged, nameless := filepath.Join(dir, "damaged.tar"), filepath.Join(dir, "empty.tar")
	if err := os.WriteFile(damaged, []byte(strings.Repeat("not an archive ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(nameless)
	if err != nil {
		t.Fatal(err)
	}
	if err := tar.NewWriter(f).Close(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	a := Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}
	for _, path := range []string{damaged, nameless, filepath.Join(dir, "missing.tar")} {
		_, err := a.Import(n.context(), path)
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with its name", filepath.Base(path), err)
		}
	}
}
