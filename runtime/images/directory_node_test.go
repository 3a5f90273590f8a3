package images_test

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"brink/internal/layout"
	"brink/runtime/images"
	"brink/runtime/testnode"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imports is a running node with a directory of archives.
type imports struct {
	*testnode.Node
	images.Store
	t   *testing.T
	dir string
}

func newImports(t *testing.T) imports {
	t.Helper()
	n := testnode.New(t)
	n.Start()
	t.Cleanup(func() { n.Stop() })
	dir := n.Config.Layout.Images()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return imports{Node: n, Store: storeOf(n), t: t, dir: dir}
}

// put writes an archive of one image into the directory and returns its path.
func (i imports) put(file, ref string) string {
	i.t.Helper()
	path := filepath.Join(i.dir, file)
	testnode.CreateArchive(i.t, path, ref)
	return path
}

func (i imports) run() {
	i.t.Helper()
	images.NewDirectory(i.Store, i.dir, nil).Once(i.Context())
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
	i.WaitImage("test.local/one:1", true)
	i.WaitImage("test.local/two:1", true)
	i.WaitImage("test.local/four:1", true)

	known := i.Stamps()
	if len(known) != 5 || known[one].Images[0].Name != "test.local/one:1" {
		t.Errorf("the record knows %v, want the five archives", known)
	}
	for _, file := range []string{"0-damaged.tar", "3-empty.tar"} {
		if s := known[filepath.Join(i.dir, file)]; s.Broken == "" || len(s.Images) > 0 {
			t.Errorf("%s: the record has %+v, want why it cannot be read", file, s)
		}
	}
	written, err := os.Stat(i.Layout.ImportedImages())
	if err != nil {
		t.Fatal(err)
	}
	i.run() // nothing new
	if again, err := os.Stat(i.Layout.ImportedImages()); err != nil || !os.SameFile(again, written) {
		t.Errorf("a start without news has written the record: %v", err)
	}

	testnode.CreateArchive(t, one, "test.local/one:2") // a new version in place
	if _, err := i.Images().RemoveImage(i.Context(), &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: "test.local/two:1"}}); err != nil {
		t.Fatal(err)
	}
	i.WaitImage("test.local/two:1", false)
	i.run()
	i.WaitImage("test.local/one:2", true)
	i.WaitImage("test.local/two:1", true)
}

// TestArchivesInDirectoryArePinned: on a node without a network the kubelet must
// not collect what cannot be pulled, for as long as the archive lies there. Every
// archive has an image of its own, because an image is pinned by any name.
func TestArchivesInDirectoryArePinned(t *testing.T) {
	i := newImports(t)
	one := i.put("1.tar", "test.local/one:1")
	i.run()
	i.WaitPinned("test.local/one:1", true)
	i.run()
	i.WaitPinned("test.local/one:1", true)

	// Imported by hand, the pinned image stays so and another one is not pinned.
	for _, ref := range []string{"test.local/one:1", "test.local/hand:1"} {
		path := filepath.Join(t.TempDir(), "hand.tar")
		testnode.CreateArchive(t, path, ref)
		if _, err := i.Import(i.Context(), path, false, silent); err != nil {
			t.Fatal(err)
		}
		i.WaitPinned(ref, ref == "test.local/one:1")
	}

	// Somebody else imports it, which takes the label away.
	i.ImportLabelled("test.local/one:1", images.ManagedLabels())
	i.WaitPinned("test.local/one:1", false)
	i.run()
	i.WaitPinned("test.local/one:1", true)

	testnode.CreateArchive(t, one, "test.local/one:2") // which no longer holds one:1
	i.run()
	i.WaitPinned("test.local/one:2", true)
	i.WaitPinned("test.local/one:1", false)

	if err := os.Remove(one); err != nil {
		t.Fatal(err)
	}
	i.run()
	i.WaitPinned("test.local/one:2", false)
	if known := i.Stamps(); len(known) > 0 {
		t.Errorf("the record still knows %v", known)
	}
}

// TestInterruptedImportKeepsTheRecord: a stop after the first archive does not cost that
// one, and the second is imported at the next start.
func TestInterruptedImportKeepsTheRecord(t *testing.T) {
	i := newImports(t)
	one := i.put("1.tar", "test.local/one:1")
	i.put("2.tar", "test.local/two:1")
	ctx, cancel := context.WithCancel(i.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		images.NewDirectory(i.Store, i.dir, nil).Once(ctx)
	}()
	for len(i.Stamps()) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	if known := i.Stamps(); len(known[one].Images) != 1 {
		t.Errorf("after the stop the record knows %v, want the first archive", known)
	}
	images.NewDirectory(i.Store, i.dir, nil).Once(ctx) // which has ended
	if known := i.Stamps(); len(known[one].Images) != 1 {
		t.Errorf("after a stop before the first archive the record knows %v", known)
	}
	i.run()
	i.WaitPinned("test.local/two:1", true)
}

// TestUnwritableRecord: the node is worth more than the next start's time.
func TestUnwritableRecord(t *testing.T) {
	i := newImports(t)
	i.put("1.tar", "test.local/one:1")
	if err := os.Mkdir(i.Layout.ImportedImages(), 0o700); err != nil {
		t.Fatal(err)
	}
	i.run()
	i.WaitPinned("test.local/one:1", true)
}

func TestImportWithoutContainerd(t *testing.T) {
	t.Parallel()
	a := images.Store{Layout: layout.At(t.TempDir(), t.TempDir())}
	path := filepath.Join(t.TempDir(), "x.tar")
	testnode.CreateArchive(t, path, "test.local/x:1")
	ctx, cancel := context.WithTimeout(t.Context(), testnode.Patience)
	defer cancel()
	want := "connecting to containerd: dial unix " + a.Layout.ContainerdSocket()
	if _, err := a.Import(ctx, path, false, silent); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestImportEndsWithContainerd: whoever imports when brink is killed is told so.
func TestImportEndsWithContainerd(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	path := filepath.Join(t.TempDir(), "pipe.tar")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := storeOf(n).Import(t.Context(), path, false, silent)
		done <- err
	}()
	whole, err := os.ReadFile(testnode.WriteArchive(t, "test.local/x:1", testnode.Busybox(t, "x")))
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
	if err := n.End(syscall.SIGKILL); err == nil {
		t.Fatal("the node was not killed")
	}
	_, _ = w.Write(whole[len(whole)/2:]) // the reader may be gone
	w.Close()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want an error with the archive's name", err)
		}
	case <-time.After(testnode.Patience):
		t.Error("the import goes on without containerd")
	}
}

// TestImportSaysWhatIsWrong: one line with the archive's name.
func TestImportSaysWhatIsWrong(t *testing.T) {
	n := testnode.New(t)
	n.Start()
	t.Cleanup(func() { n.Stop() })
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
	a := storeOf(n)
	for _, path := range []string{damaged, nameless, filepath.Join(dir, "missing.tar")} {
		_, err := a.Import(n.Context(), path, false, silent)
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line with its name", filepath.Base(path), err)
		}
	}
}
