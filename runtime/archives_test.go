package runtime

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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

// archive writes an image archive, compressed when the name says so.
func archive(t *testing.T, path, ref string) {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	image := busybox(t, ref)
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
	if err := tarball.Write(tag, image, w); err != nil {
		t.Fatal(err)
	}
}

// imports is a running node with a directory of archives.
type imports struct {
	*node
	Archives
	dir string
}

func newImports(t *testing.T) imports {
	t.Helper()
	n := newNode(t)
	n.start()
	t.Cleanup(func() { n.stop() })
	dir := filepath.Join(filepath.Dir(n.cfg.Root), "images")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return imports{node: n, Archives: Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}, dir: dir}
}

// put writes an archive of one image into the directory and returns its path.
func (i imports) put(file, ref string) string {
	i.t.Helper()
	path := filepath.Join(i.dir, file)
	archive(i.t, path, ref)
	return path
}

func (i imports) run() {
	i.t.Helper()
	if err := i.ImportDir(i.context(), i.dir); err != nil {
		i.t.Fatal(err)
	}
}

// TestImportDir is the whole way against a real containerd: import, no second
// import, a changed archive, an image that was removed, damaged archives.
func TestImportDir(t *testing.T) {
	i := newImports(t)
	one := i.put("1.tar", "test.local/one:1")
	i.put("2.tar.gz", "test.local/two:1")
	i.put("4.tar.zst", "test.local/four:1")
	for name, text := range map[string]string{"0-damaged.tar": "not an archive", "3-empty.tar": ""} {
		if err := os.WriteFile(filepath.Join(i.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	i.run()
	i.waitImage("test.local/one:1", true)
	i.waitImage("test.local/two:1", true)
	i.waitImage("test.local/four:1", true)

	known := readRecord(i.recordFile()).stamps
	if len(known) != 3 || known[one].Images[0].Name != "test.local/one:1" {
		t.Errorf("the record knows %v, want the three good archives", known)
	}
	written, err := os.Stat(i.recordFile())
	if err != nil {
		t.Fatal(err)
	}
	i.run() // nothing new
	if again, err := os.Stat(i.recordFile()); err != nil || !os.SameFile(again, written) {
		t.Errorf("a start without news has written the record: %v", err)
	}

	archive(t, one, "test.local/one:2") // a new version in place
	if _, err := i.images().RemoveImage(i.context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "test.local/two:1"}}); err != nil {
		t.Fatal(err)
	}
	i.waitImage("test.local/two:1", false)
	i.run()
	i.waitImage("test.local/one:2", true)
	i.waitImage("test.local/two:1", true)
}

// TestArchivesInDirectoryArePinned: on a node without a network the kubelet must
// not collect what cannot be pulled, for as long as the archive lies there. Every
// archive has an image of its own, because an image is pinned by any name.
func TestArchivesInDirectoryArePinned(t *testing.T) {
	i := newImports(t)
	one := i.put("1.tar", "test.local/one:1")
	i.run()
	i.waitPinned("test.local/one:1", true)
	i.run()
	i.waitPinned("test.local/one:1", true)

	// Imported by hand, the pinned image stays so and another one is not pinned.
	for _, ref := range []string{"test.local/one:1", "test.local/hand:1"} {
		path := filepath.Join(t.TempDir(), "hand.tar")
		archive(t, path, ref)
		if _, err := i.Import(i.context(), path); err != nil {
			t.Fatal(err)
		}
		i.waitPinned(ref, ref == "test.local/one:1")
	}

	// Somebody else imports it, which takes the label away.
	i.importLabelled("test.local/one:1", managed)
	i.waitPinned("test.local/one:1", false)
	i.run()
	i.waitPinned("test.local/one:1", true)

	archive(t, one, "test.local/one:2") // which no longer holds one:1
	i.run()
	i.waitPinned("test.local/one:2", true)
	i.waitPinned("test.local/one:1", false)

	if err := os.Remove(one); err != nil {
		t.Fatal(err)
	}
	i.run()
	i.waitPinned("test.local/one:2", false)
	if known := readRecord(i.recordFile()).stamps; len(known) > 0 {
		t.Errorf("the record still knows %v", known)
	}
}

// TestInterruptedImportKeepsTheRecord: neither a stop nor a power cut in the
// middle of the second archive costs the first one.
func TestInterruptedImportKeepsTheRecord(t *testing.T) {
	i := newImports(t)
	one := i.put("1.tar", "test.local/one:1")
	pipe := filepath.Join(i.dir, "2.tar")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(i.context())
	done := make(chan error, 1)
	go func() { done <- i.ImportDir(ctx, i.dir) }()
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // waits for the import to open it
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		if known := readRecord(i.recordFile()).stamps; len(known) != 1 || len(known[one].Images) != 1 {
			t.Errorf("%s the record knows %v, want the first archive", when, known)
		}
	}
	check("during the second archive")
	cancel()
	w.Close()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("stopped with %v", err)
	}
	check("after the stop")
	if err := i.ImportDir(ctx, i.dir); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped before it began: %v", err)
	}
	check("after a stop before the first archive")
}

// TestUnwritableRecord: the node is worth more than the next start's time.
func TestUnwritableRecord(t *testing.T) {
	i := newImports(t)
	i.put("1.tar", "test.local/one:1")
	if err := os.Mkdir(i.recordFile(), 0o700); err != nil {
		t.Fatal(err)
	}
	i.run()
	i.waitPinned("test.local/one:1", true)
}

// waitPinned waits until the CRI has an image and says whether it is pinned.
func (n *node) waitPinned(ref string, want bool) {
	n.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		status, err := n.images().ImageStatus(n.context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: ref}})
		if err != nil {
			n.t.Fatal(err)
		}
		if status.Image != nil && status.Image.Pinned == want {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("image %s is %v, want pinned %t", ref, status.Image, want)
		}
	}
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

func TestImportWithoutContainerd(t *testing.T) {
	t.Parallel()
	a := Archives{Socket: filepath.Join(t.TempDir(), "nobody.sock")}
	path := filepath.Join(t.TempDir(), "x.tar")
	archive(t, path, "test.local/x:1")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	want := "connecting to containerd: dial unix " + a.Socket
	if _, err := a.Import(ctx, path); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestImportEndsWithContainerd: whoever imports when brink is killed is told so.
func TestImportEndsWithContainerd(t *testing.T) {
	n := newNode(t)
	n.start()
	path := filepath.Join(t.TempDir(), "pipe.tar")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := Archives{Socket: n.cfg.Socket, Root: n.cfg.Root}.Import(t.Context(), path)
		done <- err
	}()
	whole, err := os.ReadFile(writeArchive(t, "test.local/x:1", busybox(t, "x")))
	if err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0) // waits for the import to open it
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(whole[:len(whole)/2]); err != nil {
		t.Fatal(err)
	}
	if err := n.end(syscall.SIGKILL); err == nil {
		t.Fatal("the node was not killed")
	}
	_, _ = w.Write(whole[len(whole)/2:]) // the reader may be gone
	w.Close()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want an error with the archive's name", err)
		}
	case <-time.After(patience):
		t.Error("the import goes on without containerd")
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
