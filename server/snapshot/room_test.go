package snapshot

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"brink/internal/layout"
	"brink/internal/testdisk"
	"brink/internal/testerror"
)

func TestHasRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, files := range [][]File{{}, {{Size: 1 << 10}, {Size: 0}}, {{Size: -1}}} {
		if err := hasRoom(dir, files); err != nil {
			t.Errorf("%v: %v", files, err)
		}
	}
	for _, files := range [][]File{{{Size: math.MaxInt64}}, {{Size: 1 << 10}, {Size: math.MaxInt64}, {Size: math.MaxInt64}}} {
		testerror.OneLine(t, hasRoom(dir, files), "MiB that are free in "+dir)
	}
}

// TestRestoreOnASmallDisk: nothing is written where the snapshot does not fit.
func TestRestoreOnASmallDisk(t *testing.T) {
	l, _ := newServer(t, t.TempDir())
	file := save(t, l)
	disk := t.TempDir()
	testdisk.MountAt(t, disk, "tmpfs", 0, "size=40k")
	fresh := layout.New(filepath.Join(disk, "card"))
	if err := os.Mkdir(fresh.Data(), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Restore{Layout: fresh, File: file, Own: own}.Run(t.Context())
	testerror.OneLine(t, err, "MiB that are free in "+fresh.Data())
	if left, err := os.ReadDir(fresh.Data()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}
