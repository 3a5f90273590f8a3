package guest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"brink/e2e/machine"
)

// janitor removes the guests of a program that was killed.
var janitor *machine.Janitor

// scratch is what Scratch returns.
var scratch string

// Scratch is a directory that goes with the tests, for what several of them share.
func Scratch() string { return scratch }

// Main runs the tests of a package that boots guests, and returns the exit code.
func Main(m *testing.M) (code int) {
	if machine.RunJanitor() {
		return 0
	}
	restore, err := prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		return 1
	}
	defer restore()
	defer janitor.Close()
	return m.Run()
}

// prepare says in one line what guests lack.
func prepare() (restore func(), err error) {
	if os.Getuid() != 0 {
		return nil, errors.New("these tests boot guests: run them as root (make e2e-install)")
	}
	for _, tool := range []struct{ name, pkg string }{
		{"mmdebstrap", "mmdebstrap"}, {"systemd-nspawn", "systemd-container"}, {"ip", "iproute2"}, {"nsenter", "util-linux"},
	} {
		if _, err := exec.LookPath(tool.name); err != nil {
			return nil, fmt.Errorf("%s is missing: apt-get install %s", tool.name, tool.pkg)
		}
	}
	cache, err := cacheDir()
	if err == nil {
		err = prune(cache)
	}
	if err != nil {
		return nil, err
	}
	if scratch, err = os.MkdirTemp("", "brink-guests-"); err != nil {
		return nil, err
	}
	if janitor, err = machine.StartJanitor(scratch); err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	return moreInotify(), nil
}

// moreInotify raises the number of inotify instances of a user where it is low: in the
// kernel's eyes a dozen nodes are one user's.
func moreInotify() (restore func()) {
	const path = "/proc/sys/fs/inotify/max_user_instances"
	before, _ := os.ReadFile(path)
	if has, err := strconv.Atoi(strings.TrimSpace(string(before))); err != nil || has >= 2048 {
		return func() {}
	}
	if err := os.WriteFile(path, []byte("2048"), 0); err != nil {
		return func() {}
	}
	return func() { _ = os.WriteFile(path, before, 0) }
}

// PauseEnv, when it is not empty, keeps a guest whose test has failed until somebody
// who has looked at it removes a file.
const PauseEnv = "BRINK_GUEST_PAUSE"

// explain tells of a guest whose test has failed, before it is removed.
func (g *Guest) explain() {
	if !g.Failed() {
		return
	}
	g.Logf("guest %s, end of its console:\n%s", g.id, machine.Tail(g.console(), 4<<10))
	g.saveLogs()
	if os.Getenv(PauseEnv) == "" || g.leader == 0 { // nobody gets into a virtual machine
		return
	}
	file := filepath.Join(g.dir, "paused")
	if os.WriteFile(file, nil, 0o644) != nil {
		return
	}
	fmt.Fprintf(os.Stderr, "guest %s waits. Look at it by\n\tnsenter --target %d --all env -i TERM=$TERM PATH=$PATH HOME=/root bash\nand let it go by\n\trm %s\n",
		g.id, g.leader, file)
	for _, err := os.Stat(file); err == nil; _, err = os.Stat(file) {
		select {
		case <-g.ended:
			return
		case <-pause():
		}
	}
}
