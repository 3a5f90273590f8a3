package install

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/e2e/guest"
)

// recipes are the systems that most tests run on.
var recipes = []guest.Recipe{guest.Systemd, guest.OpenRC}

// TestGuest looks at the harness itself: a guest runs commands, is served, boots again,
// and a snapshot shows what was changed and nothing else.
func TestGuest(t *testing.T) {
	for _, recipe := range recipes {
		t.Run(recipe.Name, func(t *testing.T) {
			t.Parallel()
			g := guest.New(t, recipe)
			testCommands(g)
			testServing(g)
			testSnapshot(g)
			testBoots(g)
		})
	}
}

func testCommands(g *guest.Guest) {
	if r := g.TrySh("echo out; echo err >&2; exit 3"); r.Stdout != "out\n" || r.Stderr != "err\n" || r.Code != 3 {
		g.Errorf("a command: %v", r)
	}
	if got := g.Do("WORD=two words", "sh", "-c", `echo "$WORD $(hostname)"`); got != "two words guest" {
		g.Errorf("a command with a variable wrote %q", got)
	}
	g.Write("/root/dir/file", "content", 0o640)
	if got := g.Sh("stat -c '%a %U' /root/dir/file; cat /root/dir/file"); got != "640 root\ncontent" {
		g.Errorf("a written file is %q", got)
	}
}

func testServing(g *guest.Guest) {
	dir := g.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "v1+2"), []byte("served"), 0o644); err != nil {
		g.Fatal(err)
	}
	url := g.Serve(dir)
	if got := g.Do("curl", "-sf", url+"/v1%2B2"); got != "served" {
		g.Errorf("%s has %q", url, got)
	}
	if _, err := http.Get(url); err == nil {
		g.Errorf("%s is seen from this machine", url)
	}
}

// testSnapshot changes one thing of each kind.
func testSnapshot(g *guest.Guest) {
	before := g.Snapshot()
	if d := before.Diff(g.Snapshot()); len(d) > 0 {
		g.Errorf("nothing was done, and different are\n%s", strings.Join(d, "\n"))
	}
	g.Sh(`
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/vm/overcommit_memory
ip link add left0 type bridge
mkdir -p /run/left /sys/fs/cgroup/memory/left /var/lib/left
echo left >>/etc/hosts
mkdir -p /tmp/leftmount; mount -t tmpfs tmpfs /tmp/leftmount
useradd left
ln -s nowhere /usr/local/bin/left
chmod 700 /srv
setsid sleep 100001 >/dev/null 2>&1 </dev/null &`)
	all := "\n" + strings.Join(before.Diff(g.Snapshot()), "\n")
	for _, part := range []string{
		"\nchanged  sysctl net.ipv4.ip_forward: = 0 => = 1", "\nchanged  sysctl vm.overcommit_memory: = 0 => = 1",
		"\nnew      link left0", "\nnew      file /run/left:", "\nnew      cgroup memory/", "\nnew      file /var/lib/left: d",
		"\nchanged  file /etc/hosts: ", "\nnew      mount /tmp/leftmount: ", "\nchanged  file /etc/passwd", "\nnew      file /usr/local/bin/left: L",
		"\nchanged  file /srv: ", "\nnew      process sleep 100001",
	} {
		if !strings.Contains(all, part) {
			g.Errorf("%q is not among%s", part, all)
		}
	}
	if host, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err == nil && g.Read("/proc/sys/net/ipv4/ip_forward") == string(host) {
		g.Log("this machine forwards too: that the guest's setting is its own is not shown")
	}
}

func testBoots(g *guest.Guest) {
	g.Sh("touch /run/gone; sync")
	g.Reboot()
	g.Sh("[ ! -e /run/gone ] && [ -e /var/lib/left ] && ! ip link show left0 2>/dev/null")
	g.CutPower()
	g.Boot()
	g.Sh("[ -e /var/lib/left ] && curl -s " + g.Serve(g.TempDir()))
	if g.Boots() != 3 {
		g.Errorf("%d boots", g.Boots())
	}
}
