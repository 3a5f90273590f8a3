package host

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"brink/internal/testdisk"
)

func TestFileSystems(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		fs   filesystem
		want Result
		part string
	}{
		{"ext4", filesystem{Type: 0xef53}, OK, ""},
		{"NFS", filesystem{Type: 0x6969}, Fail, "is on NFS"},
		{"FAT", filesystem{Type: 0x4d44}, Fail, "is on FAT"},
		{"memory", filesystem{Type: fsTmpfs}, Warn, "lost with the next reboot"},
		{"noexec", filesystem{Type: 0xef53, Flags: 0x8}, Fail, "mounted noexec"},
	} {
		check := checkFileSystem("/data", c.fs, true)
		if check.Result != c.want || !strings.Contains(check.Message, c.part) {
			t.Errorf("%s: %s %s", c.name, check.Result, check)
		}
	}
}

func TestNoExecWithoutPods(t *testing.T) {
	t.Parallel()
	if check := checkFileSystem("/data", filesystem{Type: 0xef53, Flags: 0x8}, false); check.Result != OK {
		t.Errorf("nothing is executed there: %s", check)
	}
}

func TestSpace(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fs   filesystem
		want Result
	}{
		{filesystem{Bavail: 1 << 20, Bsize: 4096, Files: 1 << 20, Ffree: 1 << 19}, OK},
		{filesystem{Bavail: 1 << 20, Bsize: 4096}, OK}, // btrfs counts no inodes
		{filesystem{Bavail: 1 << 10, Bsize: 4096, Files: 1 << 20, Ffree: 1 << 19}, Warn},
		{filesystem{Bavail: 1 << 20, Bsize: 4096, Files: 1 << 20, Ffree: 100}, Warn},
	} {
		if check := checkSpace("/data", c.fs); check.Result != c.want {
			t.Errorf("%+v: %s, want %s", c.fs, check, c.want)
		}
	}
}

func TestDataDirectory(t *testing.T) {
	t.Parallel()
	m := thisMachine()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("that does not exist yet", func(t *testing.T) {
		t.Parallel()
		if err := Failed(m.checkDataDir(filepath.Join(dir, "a", "b"), true)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "a")); err == nil {
			t.Error("a check created the directory")
		}
	})
	t.Run("below a file", func(t *testing.T) {
		t.Parallel()
		err := Failed(m.checkDataDir(filepath.Join(file, "a"), true))
		if err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("mounted read-only", func(t *testing.T) {
		t.Parallel()
		mounted := testdisk.Mount(t, "tmpfs", syscall.MS_RDONLY, "")
		err := Failed(m.checkDataDir(filepath.Join(mounted, "brink"), true))
		if err == nil || !strings.Contains(err.Error(), "read-only file system") {
			t.Errorf("error is %v", err)
		}
	})
}
