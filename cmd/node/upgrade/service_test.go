package upgrade

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/internal/initsystem"
	"brink/internal/testerror"
	"brink/internal/testtree"
)

func watcherIn(t *testing.T, init initsystem.Init, name string) (w watcherService, calls *[]string) {
	t.Helper()
	calls = new([]string)
	w = watcherService{service: initsystem.Service{Init: init, Name: name, IsDaemon: true}, program: "/usr/local/bin/brink.previous", dataDir: "/var/lib/brink",
		root: testtree.Make(t, map[string]string{"etc/systemd/system/": "", "etc/init.d/": ""})}
	w.run = func(_ context.Context, name string, args ...string) (string, error) {
		*calls = append(*calls, name+" "+strings.Join(args, " "))
		return "", nil
	}
	return w, calls
}

func TestWatcherService(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		init       initsystem.Init
		name, file string
		calls      []string
	}{
		{initsystem.Systemd, "brink-agent.service", "etc/systemd/system/brink-agent-upgrade.service", []string{
			"systemctl daemon-reload", "systemctl enable --quiet brink-agent-upgrade", "systemctl restart --no-block brink-agent-upgrade",
			"systemctl stop brink-agent-upgrade", "systemctl disable --quiet brink-agent-upgrade", "systemctl daemon-reload"}},
		{initsystem.OpenRC, "brink", "etc/init.d/brink-upgrade", []string{
			"rc-update --quiet add brink-upgrade default", "rc-service brink-upgrade restart",
			"rc-update --quiet --all del brink-upgrade", "rc-service brink-upgrade stop"}},
	} {
		w, calls := watcherIn(t, c.init, c.name)
		if err := w.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(w.root, c.file))
		if err != nil || !strings.Contains(string(text), "brink.previous") || !strings.Contains(string(text), "upgrade --continue --data-dir /var/lib/brink") {
			t.Errorf("%s: %s (%v)", c.file, text, err)
		}
		for range 2 { // the second time there is nothing to do
			if err := w.remove(t.Context(), true); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(filepath.Join(w.root, c.file)); err == nil {
			t.Errorf("%s is left", c.file)
		}
		if !slices.Equal(*calls, c.calls) {
			t.Errorf("ran %q, want %q", *calls, c.calls)
		}
	}
}

func TestWatcherServiceRefusesNames(t *testing.T) {
	t.Parallel()
	w, calls := watcherIn(t, initsystem.Systemd, "brink.service")
	w.dataDir = "/mnt/a b"
	testerror.OneLine(t, w.start(t.Context()), "/mnt/a b")
	if len(*calls) > 0 {
		t.Errorf("ran %q", *calls)
	}
}

// Ctrl-C while the service is started leaves none, and one that is started again is not stopped.
func TestWatcherServiceInterrupted(t *testing.T) {
	t.Parallel()
	w, calls := watcherIn(t, initsystem.Systemd, "brink.service")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	plain := w.run
	w.run = func(ctx context.Context, name string, args ...string) (string, error) {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return plain(ctx, name, args...)
	}
	if err := w.start(ctx); err == nil {
		t.Error("started")
	}
	if _, err := os.Lstat(w.file()); err == nil || !slices.Contains(*calls, "systemctl disable --quiet brink-upgrade") {
		t.Errorf("left, after %q", *calls)
	}
	if err := w.launch(t.Context(), "start"); err != nil || !slices.Contains(*calls, "systemctl start --no-block brink-upgrade") {
		t.Errorf("ran %q (%v)", *calls, err)
	}
}

func TestInitScriptIsShell(t *testing.T) {
	t.Parallel()
	w, _ := watcherIn(t, initsystem.OpenRC, "brink")
	if err := w.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("sh", "-n", w.file()).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// A link takes the place of what has the name, also where that is the same file already.
func TestLink(t *testing.T) {
	t.Parallel()
	dir := testtree.Make(t, map[string]string{"a": "new", "b": "old", ".b.link": "left by a kill"})
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for range 2 {
		if err := link(a, b); err != nil {
			t.Fatal(err)
		}
	}
	one, err := os.Stat(a)
	other, err2 := os.Stat(b)
	if err != nil || err2 != nil || !os.SameFile(one, other) {
		t.Errorf("%v %v", err, err2)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v (%v)", entries, err)
	}
}
