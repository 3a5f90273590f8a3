package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"brink/e2e/machine"
)

// newNodeOnDisk is a node whose data directory is on a small file system of its
// own. Its loop device goes with the machine's mounts.
func newNodeOnDisk(t *testing.T, megabytes int, config ...string) *node {
	t.Helper()
	m, err := newMachine()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(m.Dir, "disk")
	if err := m.UseDisk(disk); err != nil { // the janitor must know the new place too
		t.Fatal(errors.Join(err, m.Destroy()))
	}
	n := &node{machine.NewServer(m, config...)}
	n.closeAfter(t)
	for _, argv := range [][]string{
		{"truncate", fmt.Sprintf("--size=%dM", megabytes), disk + ".img"},
		{"mkfs.ext4", "-q", "-m", "0", disk + ".img"},
		{"mkdir", disk},
		{"mount", "-o", "loop", disk + ".img", disk},
	} {
		if err := m.Holder.Run(argv...); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.WriteConfig(); err != nil {
		t.Fatal(err)
	}
	return n
}

// fill writes until the disk is full and returns what frees it again.
func (n *node) fill(t *testing.T) (free func()) {
	t.Helper()
	path := n.Inside(filepath.Join(filepath.Dir(n.Data), "filler"))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1 << 20, 1 << 12, 1} {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		err = f.Sync()
	}
	_ = f.Close()
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestFullDisk(t *testing.T) {
	n := newNodeOnDisk(t, 96, "disable-agent: true")
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	acked := &acknowledged{}
	free := n.fill(t)
	acked.write(n, "small") // what the database had room for, until it has none
	if err := n.Await("a line about the full disk", func() error { return n.Says("err", "disk full at ") }); err != nil {
		t.Fatal(err)
	}
	acked.verify(t, n) // reading goes on
	n.tellsFullDisk(t)
	free()
	if err := n.Await("writing to go on", func() error { return n.create("after") }); err != nil {
		t.Fatal(err)
	}
	acked.add("after")
	acked.verify(t, n)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.mustBeSound(t)

	free = n.fill(t)
	n.refuses(t, "disk is full")
	free()
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	acked.verify(t, n)
}

// tellsFullDisk checks what brink status says of a full disk.
func (n *node) tellsFullDisk(t *testing.T) {
	t.Helper()
	r, err := n.Status()
	if err != nil || r.Code == 0 || !strings.Contains(r.Stdout, "disk full at ") {
		t.Errorf("brink status on a full disk: %v %v", err, r)
	}
}

// TestFullDiskUnderPods: pods have their own life, and the node comes back to
// itself. The kubelet's own remedies, which are to evict pods and remove images,
// are off: they would free the disk.
func TestFullDiskUnderPods(t *testing.T) {
	t.Parallel()
	n := newNodeOnDisk(t, 512, "  - eviction-hard=memory.available<1Mi", "  - image-gc-high-threshold=100")
	if err := errors.Join(n.Start(), n.ImportImages(imageArchive)); err != nil {
		t.Fatal(err)
	}
	ns := newNamespace(t, n)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	before := ns.lives()

	acked := &acknowledged{}
	free := n.fill(t)
	acked.write(n, "small")
	if err := n.Await("a line about the full disk", func() error { return n.Says("err", "disk full at ") }); err != nil {
		t.Fatal(err)
	}
	n.tellsFullDisk(t)
	time.Sleep(15 * time.Second) // more than one round of the kubelet's syncs
	ns.mustEqual("the pod's life on a full disk", ns.lives()["box"], before["box"])

	free()
	ns.eventually("writing to go on", func() error { return n.create("after") })
	acked.add("after")
	acked.verify(t, n)
	ns.apply(sleeper("later", ""))
	ns.readyPod("later")
	ns.eventually("brink status to be content", func() error {
		r, err := n.Status()
		if err == nil && r.Code != 0 {
			err = errors.New(r.String())
		}
		return err
	})
	ns.mustEqual("the pod's life after that", ns.lives()["box"], before["box"])
}

func TestDamagedDatabase(t *testing.T) {
	n := prepareNode(t, "disable-agent: true")
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(n.Layout().DB(), "state.db")
	damage(t, db)
	before := hash(t, db)
	n.refuses(t, "state.db", "damaged")
	if hash(t, db) != before {
		t.Error("the damaged database was overwritten")
	}

	if err := n.Configure("datastore-set-aside-damaged", "true"); err != nil {
		t.Fatal(err)
	}
	if err := n.StartControlPlane(); err != nil {
		t.Fatal(err)
	}
	kept, err := filepath.Glob(db + "?*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range kept {
		if hash(t, path) == before {
			return
		}
	}
	t.Errorf("the damaged database is not kept among %v", kept)
}

// damage overwrites pages behind the header, as a dying flash card does.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 16<<10), 4<<10); err != nil {
		t.Fatal(err)
	}
}

func hash(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}
