package install

import (
	"os"
	"strings"
	"testing"
	"time"

	"brink/e2e/guest"
	"brink/e2e/machine"
	"brink/internal/release"
)

// TestCycle is a node's life under each init system: installed by the line of the README,
// restarted, set otherwise, rebooted, without power for a moment, updated, and removed.
// In the end the system must be as it was.
func TestCycle(t *testing.T) {
	for _, recipe := range recipes {
		t.Run(recipe.Name, func(t *testing.T) {
			t.Parallel()
			g := guest.New(t, recipe)
			before := g.Snapshot()
			p := publish(g)
			p.install(g)
			deployWeb(g)
			testRestart(g)
			testRerun(g, p)
			testReboot(g)
			testPowerCut(g)
			testUpdate(g, p)
			uninstall(g)
			mustEqual(g, before, g.Snapshot(), remaining...)
		})
	}
}

// remaining is what a use of the node leaves that is not brink's to remove: kubectl's
// cache of what the API has.
var remaining = []string{"file /root/.kube", "file /root/.kube/"}

// install is script that must succeed and leave a Ready node.
func (p published) install(g *guest.Guest, args ...string) {
	g.Helper()
	begun := time.Now()
	p.installed(g, "", args...)
	g.Do(brink, "status") // install.sh waits until it is Ready
	g.Logf("installed in %v", time.Since(begun).Round(100*time.Millisecond))
}

func uninstall(g *guest.Guest) {
	g.Helper()
	if r := g.Run("/usr/local/bin/brink-uninstall.sh"); r.Code != 0 {
		g.Fatalf("brink-uninstall.sh: %v", r)
	}
}

// isSystemd reports which init system the guest has.
func isSystemd(g *guest.Guest) bool {
	g.Helper()
	return g.TrySh("[ -d /run/systemd/system ]").Code == 0
}

// serverProcess is the number of brink's process.
func serverProcess(g *guest.Guest) string {
	g.Helper()
	return g.EventuallySh("brink's process", `pgrep -xo brink`)
}

// testRestart restarts the service: pods' processes stay.
func testRestart(g *guest.Guest) {
	g.Helper()
	processes := webProcesses(g)
	if isSystemd(g) {
		g.Do("systemctl", "restart", "brink")
	} else {
		g.Do("rc-service", "brink", "restart")
	}
	awaitReady(g)
	if now := webProcesses(g); now != processes {
		g.Errorf("web's processes were %s and are %s after a restart", processes, now)
	}
	awaitWeb(g)
}

// testRerun runs the script again: with nothing new nothing happens, with another
// setting that is taken, and pods go on.
func testRerun(g *guest.Guest, p published) {
	g.Helper()
	web, server := webProcesses(g), serverProcess(g)
	p.install(g)
	if now := serverProcess(g); now != server {
		g.Errorf("a rerun without anything new restarted brink: process %s is %s", server, now)
	}
	r := p.script(g, "", "--write-kubeconfig-mode=0640")
	if mode := g.Do("stat", "-c", "%a", "/etc/brink/brink.yaml"); r.Code != 0 || mode != "640" {
		g.Errorf("after a rerun with another mode the kubeconfig has mode %s: %v", mode, r)
	}
	if now := webProcesses(g); now != web {
		g.Errorf("web's processes were %s and are %s after a rerun", web, now)
	}
}

// downBy bounds a shutdown. Pods ignore SIGTERM; without an end of theirs systemd waits 90 s.
const downBy = 15 * time.Second

func testReboot(g *guest.Guest) {
	g.Helper()
	down := g.Reboot()
	begun := time.Now()
	g.Logf("down %v after it was asked to reboot", down.Round(100*time.Millisecond))
	if down > downBy {
		g.Errorf("a reboot took %v to go down, more than %v", down, downBy)
	}
	awaitReady(g)
	awaitWeb(g)
	g.Logf("web served %v after the boot", time.Since(begun).Round(100*time.Millisecond))
}

func testPowerCut(g *guest.Guest) {
	g.Helper()
	g.CutPower()
	g.Boot()
	awaitReady(g)
	awaitWeb(g)
}

// testUpdate publishes the same program under the next version, and then, where it can be
// seen, one that does not start: the first is taken, and the second not.
func testUpdate(g *guest.Guest, p published) {
	g.Helper()
	web := webProcesses(g)
	program, version := nextProgram(g)
	next := p.Add(program)
	p.install(g)
	if got := g.Do(brink, "version"); !strings.Contains(got, next) {
		g.Errorf("after an update to %s brink is\n%s", next, got)
	}
	if isSystemd(g) {
		version.Number++
		testBrokenUpdate(g, p, next, version.String())
	}
	awaitWeb(g)
	if now := webProcesses(g); now != web {
		g.Errorf("web's processes were %s and are %s after updates", web, now)
	}
}

// testBrokenUpdate is for systemd, which tells install.sh that a start failed. openrc's
// supervisor goes on trying: there brink upgrade is the way, see TestUpgradeOpenRC.
func testBrokenUpdate(g *guest.Guest, p published, next, after string) {
	g.Helper()
	p.AddAs(brokenProgram(g, after), after)
	if r := p.script(g, ""); r.Code == 0 {
		g.Errorf("an update to what does not start succeeded: %v", r)
	}
	awaitReady(g)
	if got := g.Do(brink, "version"); !strings.Contains(got, next) {
		g.Errorf("after an update to what does not start brink is\n%s", got)
	}
}

// nextProgram is the program under test with the next number in its version.
func nextProgram(g *guest.Guest) (path string, version release.Version) {
	g.Helper()
	program := guest.Program(g)
	version, err := machine.VersionOf(program)
	if err != nil {
		g.Fatal(err)
	}
	version.Number++
	path = g.TempDir() + "/brink"
	if err := machine.AsVersion(program, path, version); err != nil {
		g.Fatal(err)
	}
	return path, version
}

// brokenProgram says its version and passes the check, and does not start.
func brokenProgram(g *guest.Guest, version string) string {
	g.Helper()
	path := g.TempDir() + "/brink"
	script := `#!/bin/sh
case $1 in
server) echo "this is a broken brink" >&2; exit 1 ;;
check) exit 0 ;;
version) echo "brink ` + version + `" ;;
*) exec /usr/local/bin/brink.previous "$@" ;;
esac
`
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		g.Fatal(err)
	}
	return path
}
