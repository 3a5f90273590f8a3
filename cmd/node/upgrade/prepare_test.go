package upgrade

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/testdisk"
	"brink/internal/testerror"
	"brink/internal/testneed"
)

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		q    Request
		r    Record
		want string
	}{
		{Request{}, Record{WasReady: true}, ""},
		{Request{}, Record{}, "the node is not ready"},
		{Request{Force: true}, Record{}, ""},
		{Request{}, Record{WasReady: true, Elsewhere: true}, "--no-snapshot"},
		{Request{Force: true}, Record{WasReady: true, Elsewhere: true}, "--no-snapshot"},
		{Request{NoSnapshot: true}, Record{WasReady: true, Elsewhere: true}, ""},
	} {
		c.r.Binary = filepath.Join(t.TempDir(), "brink")
		err := c.q.check(t.Context(), c.r)
		if c.want != "" {
			testerror.OneLine(t, err, c.want)
		} else if err != nil {
			t.Error(err)
		}
	}
}

// A file that a package manager has put there is its.
func TestPackageOf(t *testing.T) {
	t.Parallel()
	testneed.Program(t, "dpkg-query")
	testerror.OneLine(t, packageOf(t.Context(), "/usr/bin/dpkg"), "is of the package dpkg: upgrade it with: apt-get install --only-upgrade dpkg")
	if err := packageOf(t.Context(), filepath.Join(t.TempDir(), "brink")); err != nil {
		t.Errorf("nobody's: %v", err)
	}
}

// A disk that is too small for the new binary has the old one alone afterwards.
func TestWriteNewOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := testdisk.NewDisk(t, 4<<20)
	binary := filepath.Join(disk.Dir, "brink")
	if err := os.WriteFile(binary, []byte("old"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := writeNew(binary, func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(make([]byte, 8<<20)))
		return err
	})
	testerror.OneLine(t, err, "too full for the new binary")
	entries, err := os.ReadDir(disk.Dir)
	if err != nil || len(entries) != 2 { // with lost+found
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}

// What is refused while it is written leaves nothing, and what a killed download has left goes.
func TestWriteNew(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "brink")
	if err := os.WriteFile(filepath.Join(filepath.Dir(binary), "..brink.new.123"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := errors.New("another sum")
	if err := writeNew(binary, func(io.Writer) error { return wrong }); !errors.Is(err, wrong) {
		t.Error(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(binary)); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
	if err := writeNew(binary, func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(newOf(binary)); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v (%v)", info, err)
	}
}

// TestURLIsNotTakenForAFile: the error of a file has its name, and a URL may have a password.
func TestURLIsNotTakenForAFile(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"https://user:secret@h h/brink.zst", "https://user:secret/1@h/brink.zst", "http:///brink.zst"} {
		err := Request{What: what}.get(t.Context(), &Record{})
		if err == nil || !strings.Contains(err.Error(), "cannot be read") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
