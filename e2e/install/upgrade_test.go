package install

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"brink/e2e/guest"
	"brink/e2e/machine"
	"brink/internal/release"
)

const (
	previous  = brink + ".previous"
	wholeNext = "/usr/local/lib/brink-next" // what a failing brink is otherwise
	howFails  = "/etc/brink-fails"
)

// upgrading is a guest on which a brink is upgraded.
type upgrading struct {
	*guest.Guest
	dist      *guest.Dist
	url       string
	from      release.Version
	processes string // of web
}

// newUpgrading installs a brink, with web on it.
func newUpgrading(t *testing.T, r guest.Recipe, install func(g *guest.Guest)) *upgrading {
	t.Helper()
	u := &upgrading{Guest: guest.New(t, r.With("nftables", "netbase")), dist: guest.NewDist(t)}
	var err error
	if u.from, err = machine.VersionOf(guest.Program(t)); err != nil {
		t.Fatal(err)
	}
	u.url = u.Serve(u.dist.Dir)
	u.Place(guest.Program(t), brink, 0o755)
	install(u.Guest)
	awaitReady(u.Guest)
	deployWeb(u.Guest)
	u.processes = webProcesses(u.Guest)
	return u
}

func installSystemd(g *guest.Guest) {
	unit, err := os.ReadFile("../../docs/brink.service")
	if err != nil {
		g.Fatal(err)
	}
	g.Write("/etc/systemd/system/brink.service", string(unit), 0o644)
	g.Sh("systemctl daemon-reload; systemctl -q enable --now brink")
}

const openrcScript = `#!/sbin/openrc-run
supervisor=supervise-daemon
command="/usr/local/bin/brink"
command_args="server"
output_log="/var/log/brink.log"
error_log="/var/log/brink.log"
respawn_delay=5
respawn_max=0
retry="TERM/120/KILL/5"
pidfile="/run/${RC_SVCNAME}.pid"
rc_cgroup_cleanup="no"
`

func installOpenRC(g *guest.Guest) {
	g.Write("/etc/init.d/brink", openrcScript, 0o755)
	g.Sh("rc-update -q add brink default; rc-service brink start")
}

// next returns a version after another, on which the API's minor version may differ.
func (u *upgrading) next(minors, numbers int) release.Version {
	v := u.from
	v.Minor += minors
	v.Number += numbers
	return v
}

// build makes a brink of a version. Another may stand in its place on the guest: one that
// fails and is called so.
func (u *upgrading) build(v release.Version) string {
	u.Helper()
	path := filepath.Join(u.TempDir(), "brink")
	if err := machine.AsVersion(guest.Program(u), path, v); err != nil {
		u.Fatal(err)
	}
	return path
}

// publishFailing publishes a brink of a version that fails in a way.
func (u *upgrading) publishFailing(v release.Version, how string) {
	u.Helper()
	u.Place(u.build(v), wholeNext, 0o755)
	u.Write(howFails, how, 0o644)
	path := filepath.Join(u.TempDir(), "failing")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.whole="+wholeNext+" -X main.how="+howFails, "-o", path, "../failing")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		u.Fatalf("%v: %s", err, out)
	}
	u.dist.AddAs(path, v.String())
}

func (u *upgrading) upgrade(args ...string) machine.Result {
	u.Helper()
	return u.Run(append([]string{brink, "upgrade", "--mirror", u.url}, args...)...)
}

// mustRun wants the node to be Ready with a version, and web to have gone on.
func (u *upgrading) mustRun(v release.Version) {
	u.Helper()
	awaitReady(u.Guest)
	if got := guestVersion(u.Guest, brink); got != v.String() {
		u.Errorf("%s is %s, want %s", brink, got, v)
	}
	kubelet := u.Do(brink, "kubectl", "get", "nodes", "-o", "jsonpath={.items[0].status.nodeInfo.kubeletVersion}")
	if kubelet != v.String() {
		u.Errorf("the kubelet is %s, want %s", kubelet, v)
	}
	if now := webProcesses(u.Guest); now != u.processes {
		u.Errorf("web's processes were %s and are %s", u.processes, now)
	}
	if left := u.TrySh("ls /etc/systemd/system/brink-upgrade* /etc/init.d/brink-upgrade* /etc/runlevels/*/brink-upgrade* /etc/systemd/system/*/brink-upgrade* /usr/local/bin/.brink* 2>/dev/null"); left.Stdout != "" {
		u.Errorf("left behind: %s", left.Stdout)
	}
}

func guestVersion(g *guest.Guest, program string) string {
	g.Helper()
	var told struct{ Brink string }
	if err := json.Unmarshal([]byte(g.Do(program, "version", "-o", "json")), &told); err != nil {
		g.Fatal(err)
	}
	return told.Brink
}

// statusSays wants brink status to have the words.
func (u *upgrading) statusSays(words ...string) {
	u.Helper()
	said := u.Do(brink, "status")
	for _, w := range words {
		if !strings.Contains(said, w) {
			u.Errorf("brink status does not say %q:\n%s", w, said)
		}
	}
}

// TestUpgradeSystemd and TestUpgradeOpenRC go to a version and back, and to versions that fail.
func TestUpgradeSystemd(t *testing.T) {
	t.Parallel()
	newUpgrading(t, guest.Systemd, installSystemd).all()
}

func TestUpgradeOpenRC(t *testing.T) {
	t.Parallel()
	newUpgrading(t, guest.OpenRC, installOpenRC).all()
}

func (u *upgrading) all() {
	u.refuses()
	u.toNextAndBack()
	u.endsAtOnce()
	u.cutWhileItHangs()
	u.usesTheState()
	u.uninstalls()
}

func (u *upgrading) refuses() {
	u.Helper()
	skipped := u.next(2, 0)
	u.Place(u.build(skipped), "/root/skipped", 0o755)
	for args, want := range map[string]string{
		"/root/skipped":  "skips a minor version",
		"v1.1.1+brink.1": "is older than",
		"/root/none":     "no such file",
		"/etc/hostname":  "neither a brink nor one that is packed",
		"v9.9":           "is not a version of brink",
	} {
		if r := u.upgrade(args); r.Code == 0 || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, want) {
			u.Errorf("brink upgrade %s: %v, want %q", args, r, want)
		}
	}
	u.Sh("rm /root/skipped")
	u.mustRun(u.from)
}

// toNextAndBack upgrades while somebody asks the Service and the API all the time.
func (u *upgrading) toNextAndBack() {
	u.Helper()
	next := u.next(0, 1)
	u.dist.Add(u.build(next))
	u.Sh(`(while [ ! -e /run/stop-asking ]; do curl -sf --max-time 2 http://` + webAddress(u.Guest) + `/ >/dev/null || date +%s >>/run/web-away
curl -sk --max-time 1 https://127.0.0.1:6443/version >/dev/null || date +%s.%N >>/run/api-away; sleep 0.05; done) >/dev/null 2>&1 &`)
	if r := u.upgrade(); r.Code != 0 {
		u.Fatalf("brink upgrade: %v", r)
	}
	u.Sh("touch /run/stop-asking")
	if away := u.TrySh("cat /run/web-away"); away.Stdout != "" {
		u.Errorf("the Service did not answer at %s", away.Stdout)
	}
	u.Logf("the API was away for %q seconds", u.TrySh("awk 'NR==1{a=$1} {b=$1} END{print NR ? b-a : 0}' /run/api-away").Stdout)
	u.mustRun(next)
	u.statusSays("upgraded from " + u.from.String() + " to " + next.String())
	if got := guestVersion(u.Guest, previous); got != u.from.String() {
		u.Errorf("%s is %s", previous, got)
	}
	if list := u.Do(brink, "snapshot", "list"); strings.Count(list, "before-"+next.String()) != 1 {
		u.Errorf("snapshots:\n%s", list)
	}
	if r := u.upgrade("--rollback"); r.Code != 0 {
		u.Fatalf("brink upgrade --rollback: %v", r)
	}
	u.mustRun(u.from)
	u.statusSays("went back from " + next.String())
}

// endsAtOnce upgrades to what ends at once. What is written meanwhile stays.
func (u *upgrading) endsAtOnce() {
	u.Helper()
	u.publishFailing(u.next(0, 2), "ends")
	u.Do(brink, "kubectl", "create", "configmap", "before-ends")
	r := u.upgrade()
	if r.Code == 0 || !strings.Contains(r.Stderr, "has ended 5 times") {
		u.Errorf("brink upgrade: %v", r)
	}
	u.mustRun(u.from)
	u.statusSays("failed", "has ended 5 times")
	u.Do(brink, "kubectl", "get", "configmap", "before-ends")
	if kept := u.TrySh("ls -d /var/lib/brink/server.replaced-*"); kept.Stdout != "" {
		u.Errorf("the state was put back for nothing: %s", kept.Stdout)
	}
}

// cutWhileItHangs cuts the power while a version that hangs is judged.
func (u *upgrading) cutWhileItHangs() {
	u.Helper()
	u.publishFailing(u.next(0, 3), "hangs")
	u.Sh(brink + " upgrade --timeout 20s --mirror " + u.url + " >/root/upgrade.log 2>&1 &")
	u.EventuallySh("the new version to be judged", `grep -q '"phase": "watching"' /var/lib/brink/upgrade/upgrade.json`)
	u.CutPower()
	u.Boot()
	awaitReady(u.Guest)
	awaitWeb(u.Guest)
	u.processes = webProcesses(u.Guest) // the cut has ended those of before
	u.EventuallySh("the watcher to be gone", `! grep -qE '"phase": "(watching|returning)"' /var/lib/brink/upgrade/upgrade.json; [ ! -e /etc/systemd/system/brink-upgrade.service ] && [ ! -e /etc/init.d/brink-upgrade ]`)
	u.mustRun(u.from)
	u.statusSays("failed", "did not answer within 20s")
}

// usesTheState upgrades to another minor version that uses the state and then fails. The
// snapshot comes back, and what was written since is kept.
func (u *upgrading) usesTheState() {
	u.Helper()
	u.publishFailing(u.next(1, 0), "uses")
	u.Do(brink, "kubectl", "create", "configmap", "before-uses")
	r := u.upgrade()
	if r.Code == 0 || !strings.Contains(r.Stderr, "is kept in /var/lib/brink/server.replaced-") {
		u.Errorf("brink upgrade: %v", r)
	}
	u.mustRun(u.from)
	u.statusSays("failed", "are not in it", "server.replaced-")
	u.Do(brink, "kubectl", "get", "configmap", "before-uses")
	u.Do("test", "-s", strings.TrimSpace(u.Sh("ls -d /var/lib/brink/server.replaced-*/db/state.db")))
}

// TestUpgradeWatcherKilled kills it again and again while it works. What was begun comes to its
// end.
func TestUpgradeWatcherKilled(t *testing.T) {
	t.Parallel()
	u := newUpgrading(t, guest.Systemd, installSystemd)
	next := u.next(0, 1)
	u.dist.Add(u.build(next))
	u.Sh(`(for wait in 0.3 0.8 1.6; do
	until pid=$(pgrep -f '^/usr/local/bin/.brink.watcher upgrade'); do sleep 0.1; done
	sleep $wait; kill -9 $pid && echo killed >>/run/kills; while kill -0 $pid 2>/dev/null; do sleep 0.1; done
done) >/dev/null 2>&1 &`)
	if r := u.upgrade(next.String()); r.Code != 0 {
		u.Errorf("brink upgrade: %v", r)
	}
	if kills := u.TrySh("cat /run/kills").Stdout; strings.Count(kills, "killed") < 2 {
		u.Errorf("the watcher was killed too seldom: %q", kills)
	}
	u.EventuallySh("the watcher to be gone", `[ ! -e /etc/systemd/system/brink-upgrade.service ] && [ ! -e /etc/init.d/brink-upgrade ]`)
	u.mustRun(next)
	u.goesBackThoughStopped()
}

// goesBackThoughStopped wants the way back to need no brink that runs, and what is in the way of
// all other upgrades, the record of one whose watcher is gone, to be brought to its end.
func (u *upgrading) goesBackThoughStopped() {
	u.Helper()
	u.Sh("systemctl stop brink")
	if r := u.upgrade("--rollback"); r.Code != 0 {
		u.Errorf("brink upgrade --rollback of a brink that is stopped: %v", r)
	}
	u.mustRun(u.from)
	u.Sh(brink + " upgrade --mirror " + u.url + ` >/root/upgrade.log 2>&1 & cli=$!
until grep -q '"phase": "watching"' /var/lib/brink/upgrade/upgrade.json; do sleep 0.1; done
kill -9 $cli; systemctl stop brink-upgrade; systemctl disable -q brink-upgrade; rm /etc/systemd/system/brink-upgrade.service`)
	if r := u.upgrade(); r.Code != 0 || !strings.Contains(r.Stdout, "upgraded from "+u.from.String()) {
		u.Errorf("brink upgrade of one that is under way: %v", r)
	}
	u.mustRun(u.next(0, 1))
}

func (u *upgrading) uninstalls() {
	u.Helper()
	u.Do(brink, "uninstall", "--yes")
	left := u.TrySh("ls -d /var/lib/brink /run/brink /etc/brink/*")
	if left.Stdout != "" {
		u.Errorf("after brink uninstall there is %s", left.Stdout)
	}
}
