package install

import (
	"os"
	"testing"
	"time"

	"brink/e2e/guest"
)

// TestUML runs a node on a kernel with cgroups of version 2: installed, with pods that go
// on over a restart and come back after a reboot, and removed.
func TestUML(t *testing.T) {
	t.Parallel()
	testVirtual(guest.Off(t, guest.UML), guest.Program(t))
}

// TestARM64 is TestUML on an emulated machine for arm64, with the binary that BRINK_ARM64
// names. It runs by make e2e-arm64.
func TestARM64(t *testing.T) {
	t.Parallel()
	program := os.Getenv("BRINK_ARM64")
	if program == "" {
		t.Fatal("BRINK_ARM64 names no binary: make e2e-arm64")
	}
	testVirtual(guest.Off(t, guest.ARM64), program)
}

// testVirtual tells how long each step took, for docs/tests.md.
func testVirtual(g *guest.Guest, program string) {
	g.Helper()
	begun := time.Now()
	step := func(what string) {
		g.Logf("%s: %v", what, time.Since(begun).Round(time.Second))
		begun = time.Now()
	}
	g.Place(program, brink, 0o755)
	g.Boot()
	step("boot")
	g.Log(g.Sh("uname -srm; cat /sys/fs/cgroup/cgroup.controllers"))
	startByHand(g)
	step("installed and Ready")
	deployWeb(g)
	step("web served")
	processes := webProcesses(g)
	g.Do("systemctl", "restart", "brink")
	awaitReady(g)
	if now := webProcesses(g); now != processes {
		g.Errorf("web's processes were %s and are %s after a restart", processes, now)
	}
	step("restarted, with the same pods")
	mustNotRestart(g)
	g.Reboot()
	step("down and up")
	awaitReady(g)
	awaitWeb(g)
	step("web served again")
	g.Do("systemctl", "disable", "--now", "brink")
	g.Do(brink, "uninstall", "--yes")
	g.Sh("[ ! -e /var/lib/brink ] && ! pgrep httpd && ! ip link show brink0 2>/dev/null && [ -z \"$(find /sys/fs/cgroup -name 'kubepods*')\" ]")
	step("uninstalled")
}
