package node

import (
	"os"
	"path/filepath"
	"testing"

	"brink/internal/testerror"
)

func TestMakeRunDir(t *testing.T) {
	t.Parallel()
	for _, before := range []os.FileMode{0, 0o700, 0o755, 0o777} { // 0 is none
		dir := filepath.Join(t.TempDir(), "run")
		if before != 0 {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, before); err != nil {
				t.Fatal(err)
			}
		}
		if err := makeRunDir(dir); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm() != runDirMode {
			t.Errorf("it was %v and is %v (%v), want %v", before, info.Mode().Perm(), err, os.FileMode(runDirMode))
		}
	}
}

func TestMakeRunDirInTheWay(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	testerror.OneLine(t, makeRunDir(path), "making the run directory")
}
