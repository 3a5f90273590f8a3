package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"brink/e2e/guest"
)

// packaged is where a package has the program.
const packaged = "/usr/bin/brink"

// makePackages makes the packages of the tested program under a version, quickly packed.
func makePackages(t *testing.T, version string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	sh := func(script string, env ...string) {
		t.Helper()
		cmd := exec.Command("sh", "-euc", script)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), append(env, "DIR="+dir, "BRINK="+guest.Program(t), "ARCH="+runtime.GOARCH, "TOOLS="+dir+"/tools", "QUICK=1")...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("making packages: %v\n%s", err, out)
		}
	}
	sh("cd scripts/packaging; go build -o $TOOLS/ ./packages", "GOFLAGS=", "CGO_ENABLED=0")
	sh("$BRINK version --licenses >$DIR/copyright; scripts/packaging/make $BRINK $ARCH $VERSION $DIR/copyright $DIR", "VERSION="+version)
	return dir
}

// onePackage is the path of the only package in a directory that matches.
func onePackage(t testing.TB, dir, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s in %s: %v, %v", pattern, dir, found, err)
	}
	return found[0]
}

// TestDeb installs the package, runs a node by it, replaces it by a newer one, removes it
// and purges it.
func TestDeb(t *testing.T) {
	t.Parallel()
	const first, second = "v1.36.3+brink.1", "v1.36.3+brink.2"
	g := guest.New(t, guest.Systemd)
	g.Place(onePackage(t, makePackages(t, first), "*.deb"), "/root/first.deb", 0o644)
	g.Place(onePackage(t, makePackages(t, second), "*.deb"), "/root/second.deb", 0o644)
	g.Write("/etc/default/brink", "BRINK_DATA_DIR=\"/srv/b\"\n", 0o644) // the owner's
	before := g.Snapshot()
	refusesBesideScript(g)

	out := g.Sh("dpkg -i /root/first.deb")
	if !strings.Contains(out, "systemctl enable --now brink") || g.TrySh("systemctl is-active brink").Code == 0 {
		t.Errorf("nothing says how to start, or it was started: %s", out)
	}
	g.Sh("systemctl enable --now brink") // returns when the node is Ready
	g.Do("BRINK_DATA_DIR=/srv/b", packaged, "status")
	pid := g.Do("systemctl", "show", "-p", "MainPID", "--value", "brink")
	g.Sh("dpkg -i /root/second.deb")
	g.EventuallySh("another process runs", `p=$(systemctl show -p MainPID --value brink); [ "$p" != 0 ] && [ "$p" != `+pid+` ] && systemctl -q is-active brink`)

	g.Sh("dpkg -r brink")
	if failed := g.TrySh("systemctl --no-legend --failed list-units 'brink*'").Stdout; failed != "" {
		t.Errorf("failed units: %s\n%s", failed, g.TrySh("journalctl -u brink-pods --no-pager | tail -20").Stdout)
	}
	g.Sh("[ -e /srv/b/server/db/state.db ] && [ ! -e " + packaged + " ] && ! systemctl -q is-active brink && ! systemctl -q is-enabled brink")
	if processes := g.TrySh("pgrep -a brink").Stdout; processes != "" {
		t.Errorf("after dpkg -r there run\n%s", processes)
	}
	g.Sh("dpkg -P brink && [ ! -e /srv/b ] && [ ! -e /var/lib/brink ]")
	left := slices.DeleteFunc(before.Diff(g.Snapshot()), func(line string) bool {
		return strings.Contains(line, " /var/lib/dpkg/") || strings.Contains(line, " /var/log/dpkg.log")
	})
	if len(left) > 0 {
		t.Errorf("left after dpkg -P:\n%s", strings.Join(left, "\n"))
	}
}

// refusesBesideScript: the package does not come to where install.sh has been.
func refusesBesideScript(g *guest.Guest) {
	g.Helper()
	g.Sh("touch /usr/local/bin/brink")
	r := g.TrySh("dpkg -i /root/first.deb; r=$?; dpkg -P brink 2>/dev/null; rm /usr/local/bin/brink; exit $r")
	if r.Code == 0 || !strings.Contains(r.Stderr, "/usr/local/bin/brink is here already") {
		g.Errorf("beside install.sh's brink: %v", r)
	}
	g.Sh("[ ! -e " + packaged + " ]")
}

// TestRPMAndAPK reads the other two packages back with tools that are not nfpm's.
func TestRPMAndAPK(t *testing.T) {
	t.Parallel()
	dir := makePackages(t, "v1.36.3+brink.1")
	list := func(argv ...string) string {
		t.Helper()
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		if err != nil {
			t.Fatalf("%v: %v", argv, err)
		}
		return string(out)
	}
	rpm := onePackage(t, dir, "brink-1.36.3+brink.1-1.*.rpm")
	files, scripts := list("rpm", "-qpl", rpm), list("rpm", "-qp", "--scripts", rpm)
	for _, want := range []string{packaged, "/usr/lib/systemd/system/brink.service", "/usr/lib/systemd/system/brink-pods.service"} {
		if !strings.Contains(files, want+"\n") {
			t.Errorf("the .rpm has no %s:\n%s", want, files)
		}
	}
	if strings.Count(scripts, "/bin/sh):") != 4 {
		t.Errorf("the .rpm's scripts are\n%s", scripts)
	}
	if out, err := exec.Command("rpm", "-K", "--nosignature", rpm).CombinedOutput(); err != nil {
		t.Errorf("rpm -K: %v %s", err, out)
	}
	apk := list("tar", "--ignore-zeros", "-tzf", onePackage(t, dir, "brink_1.36.3_p1-r0_*.apk"))
	for _, want := range []string{".PKGINFO", ".pre-deinstall", "usr/bin/brink", "etc/init.d/brink", "etc/init.d/brink-agent"} {
		if !strings.Contains("\n"+apk, "\n"+want+"\n") {
			t.Errorf("the .apk has no %s:\n%s", want, apk)
		}
	}
}
