package images_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"brink/runtime/images"
	"brink/runtime/testnode"
)

// TestTwoArchivesWithOneImage: the image stays pinned until the last of them goes.
func TestTwoArchivesWithOneImage(t *testing.T) {
	i := newImports(t)
	one, two := i.put("1.tar", "test.local/one:1"), i.put("2.tar.gz", "test.local/one:1")
	i.run()
	for n, path := range []string{one, two} {
		i.WaitPinned("test.local/one:1", true)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		i.run()
		i.WaitPinned("test.local/one:1", n == 0)
	}
}

// TestKilledImport: what a kill leaves of an import is dropped by the next start, which
// imports the archive that lies there then, of the same size and with the same entries.
func TestKilledImport(t *testing.T) {
	i := newImports(t)
	path := filepath.Join(i.dir, "1.tar")
	for size := 64 << 20; ; size *= 2 {
		i.killInImport(path, size)
		if len(i.Stamps()) == 0 {
			break
		}
		// The import was faster: the next one takes longer.
		if size > 1<<30 {
			t.Fatal("no import of 1 GB is slow enough to be killed")
		}
	}
	testnode.CreateArchive(t, path, "test.local/small:1")
	i.run()
	i.WaitPinned("test.local/small:1", true)
	i.WaitImage("test.local/large:1", false)
	found, err := i.Client().ContentStore().ListStatuses(i.CRIContext())
	if err != nil || len(found) > 0 {
		t.Errorf("left behind: %v %v", found, err)
	}
	left, err := i.Client().LeasesService().List(i.CRIContext(), `labels."brink.io/import"`)
	if err != nil || len(left) > 0 {
		t.Errorf("leases are left: %v %v", left, err)
	}
}

// killInImport kills the node while it imports an image of size bytes from path.
func (i imports) killInImport(path string, size int) {
	i.t.Helper()
	if err := os.Rename(testnode.WriteArchive(i.t, "test.local/large:1", random(i.t, size)), path); err != nil {
		i.t.Fatal(err)
	}
	go func() { images.NewDirectory(i.Store, i.dir, nil).Once(i.Context()) }()
	waitFor(i.t, "an import", func() bool {
		found, err := i.Client().ContentStore().ListStatuses(i.CRIContext())
		return err == nil && len(found) > 0 || len(i.Stamps()) > 0
	})
	i.Crash()
}

// TestSocketAmongArchives: neither a socket nor a directory keeps archives from being read.
func TestSocketAmongArchives(t *testing.T) {
	i := newImports(t)
	l, err := net.Listen("unix", filepath.Join(i.dir, "0.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Mkdir(filepath.Join(i.dir, "1.tar"), 0o700); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "elsewhere")
	testnode.CreateArchive(t, target, "test.local/link:1")
	if err := os.Symlink(target, filepath.Join(i.dir, "2.tar")); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	i.run()
	i.WaitPinned("test.local/link:1", true)
	if len(i.Stamps()) != 1 {
		t.Errorf("after %v the record knows %v", time.Since(begun), i.Stamps())
	}
}
