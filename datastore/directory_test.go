package datastore

import (
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"brink/internal/testdisk"
	"brink/internal/testerror"
)

// What writes that broke off have left goes at the next start, and nothing else.
func TestLeftoversGo(t *testing.T) {
	t.Parallel()
	cfg := testConfig(t)
	start(t, cfg).stop()
	want := contents(t, cfg.Dir)
	for dir, names := range map[string][]string{
		cfg.Dir:       {".volatile.snapshot.123", ".volatile.revision.4", ".state.db.in-use.56"},
		cfg.SocketDir: {".leases.copy.7"},
	} {
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := prepared(cfg); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, cfg.Dir); !maps.Equal(got, want) {
		t.Errorf("in the directory: %v, want %v", got, want)
	}
	if left := contents(t, cfg.SocketDir); left[".leases.copy.7"] != "" {
		t.Errorf("in the socket directory: %v", left)
	}
}

func TestUnusableDirectory(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(t *testing.T, dir string)
		want    string
	}{
		"read-only file system": {func(t *testing.T, dir string) { testdisk.MountAt(t, dir, "tmpfs", syscall.MS_RDONLY, "size=8m") }, "read-only"},
		"file in the way": {func(t *testing.T, dir string) {
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "in the way"},
		"full disk": {func(t *testing.T, dir string) { testdisk.MountAt(t, dir, "tmpfs", 0, "size=1m") }, "disk is full"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t)
			c.prepare(t, cfg.Dir)
			_, err := prepared(cfg)
			testerror.OneLine(t, err, cfg.Dir, c.want)
		})
	}
}
