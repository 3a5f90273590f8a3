package install

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"brink/e2e/guest"
	"brink/e2e/machine"
)

// published is a web server with a release of the tested program and install.sh.
type published struct {
	*guest.Dist
	url, version string
}

func publish(g *guest.Guest) published {
	g.Helper()
	d := guest.NewDist(g)
	version := d.Add(guest.Program(g))
	return published{d, g.Serve(d.Dir), version}
}

// script runs install.sh as the README says, with words before sh and after it.
func (p published) script(g *guest.Guest, variables string, args ...string) machine.Result {
	g.Helper()
	return g.TrySh(fmt.Sprintf("curl -sfL %[1]s/install.sh | INSTALL_BRINK_MIRROR=%[1]s %[2]s sh -s - %[3]s", p.url, variables, strings.Join(args, " ")))
}

// installed is script that must succeed.
func (p published) installed(g *guest.Guest, variables string, args ...string) (said string) {
	g.Helper()
	r := p.script(g, variables, args...)
	if r.Code != 0 {
		g.Fatalf("install.sh %s %q: %v", variables, args, r)
	}
	return r.Stderr
}

func TestScriptSystemd(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	before := g.Snapshot()
	p := publish(g)
	wholeLife(g, p, before)
}

func TestScriptOpenRC(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.OpenRC.With("zstd", "openssl"))
	before := g.Snapshot()
	p := publish(g)
	wholeLife(g, p, before)
}

// wholeLife installs, changes, reboots and removes.
func wholeLife(g *guest.Guest, p published, before guest.Snapshot) {
	g.Helper()
	begun := time.Now()
	said := p.installed(g, "")
	g.Logf("installed in %v", time.Since(begun).Round(100*time.Millisecond))
	if !strings.Contains(said, "Ready") || !strings.Contains(said, "only sums are compared") {
		g.Errorf("install.sh said %s", said)
	}
	awaitReady(g)
	g.Sh("kubectl get nodes")
	deployWeb(g)
	processes, node := webProcesses(g), brinkProcess(g)

	if said := p.installed(g, ""); !strings.Contains(said, "nothing has changed") || brinkProcess(g) != node {
		g.Errorf("a rerun was no rerun: %s", said)
	}
	p.installed(g, `HTTPS_PROXY='http://a:b$c"d@192.0.2.1:1'`, `server`, `--kubelet-arg=max-pods=50`)
	awaitReady(g)
	if now := brinkProcess(g); now == node {
		g.Errorf("a run with other settings has restarted nothing")
	}
	p.installed(g, "") // keeps them
	g.EventuallySh("what a flag says", `[ "$(kubectl get node -o 'jsonpath={.items[0].status.capacity.pods}')" = 50 ]`)
	if environ := g.Sh(`tr '\0' '\n' <"/proc/` + brinkProcess(g) + `/environ"`); !strings.Contains(environ, "HTTPS_PROXY=http://a:b$c\"d@192.0.2.1:1") {
		g.Errorf("the proxy is not in the service's environment: %s", environ)
	}
	if now := webProcesses(g); now != processes {
		g.Errorf("pods were %s and are %s after runs of install.sh", processes, now)
	}
	refusesAgent(g, p)

	down := g.Reboot()
	g.Logf("down after %v", down)
	if down > 15*time.Second {
		g.Errorf("the machine took %v to go down", down)
	}
	awaitReady(g)
	awaitWeb(g)
	g.Logf("uninstall said:\n%s", g.Do("brink-uninstall.sh"))
	mustBeAsBefore(g, before)
}

// brinkProcess is the number of the node's process.
func brinkProcess(g *guest.Guest) string {
	g.Helper()
	return g.EventuallySh("the node's process", `cat /var/lib/brink/lock`)
}

// refusesAgent: a server stays one.
func refusesAgent(g *guest.Guest, p published) {
	g.Helper()
	node := brinkProcess(g)
	r := p.script(g, "BRINK_URL=https://192.0.2.1:6443 BRINK_TOKEN=x")
	if r.Code == 0 || !strings.Contains(r.Stderr, "already brink's server and would become its agent") || brinkProcess(g) != node {
		g.Errorf("a server becomes an agent: %v", r)
	}
}

// mustBeAsBefore compares all of the guest with what was before brink, but for what others
// have made: kubectl's cache, and what systemd names anew at each boot.
func mustBeAsBefore(g *guest.Guest, before guest.Snapshot) {
	g.Helper()
	g.Sh("rm -rf /root/.kube")
	isOthers := func(line string) bool {
		return strings.Contains(line, "/systemd-private-") || strings.Contains(line, "/dev/disk/")
	}
	differs := slices.DeleteFunc(before.Diff(g.Snapshot(), "mount ", "process "), isOthers)
	if len(differs) > 0 {
		g.Errorf("%d things are not as before:\n%s", len(differs), strings.Join(differs, "\n"))
	}
}
