package install

import (
	"strings"
	"testing"

	"brink/e2e/guest"
)

// TestScriptOwnFile: where the data is stands in a file that is the machine's owner's, and
// what install.sh has written finds the node by it.
func TestScriptOwnFile(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	g.Write("/etc/default/brink", "# ours\nBRINK_DATA_DIR=\"/srv/b\"\n", 0o644)
	before := g.Snapshot()
	p := publish(g)
	p.installed(g, `FOO="$(printf 'a\nBRINK_X=b')" INSTALL_BRINK_EXEC="--node-label='shop=a' --node-label=floor=2"`)
	g.Sh("test -e /srv/b/lock && test ! -e /var/lib/brink")
	g.EventuallySh("labels", `[ "$(BRINK_DATA_DIR=/srv/b kubectl get node -l shop=a,floor=2 -o name)" != "" ]`)
	g.Sh("brink-killall.sh")
	if r := g.TrySh("systemctl is-active brink; ls /srv/b/server/db"); !strings.HasPrefix(r.Stdout, "inactive\n") || r.Code != 0 {
		t.Errorf("after brink-killall.sh: %v", r)
	}
	if said := p.installed(g, ""); strings.Contains(said, "nothing has changed") {
		t.Errorf("a run on a stopped node said %s", said)
	}
	g.Write("/etc/default/brink", "BRINK_DATA_DIR=/srv/elsewhere\n", 0o644)
	if r := g.TrySh("brink-uninstall.sh"); r.Code != 1 || !strings.Contains(r.Stderr, "brink runs and has no data in /srv/elsewhere: nothing was removed") {
		t.Errorf("uninstalling a node that is somewhere else: %v", r)
	}
	g.Sh("test -x /usr/local/bin/brink && test -e /etc/systemd/system/brink.service && systemctl -q is-active brink")
	g.Write("/etc/default/brink", "# ours\nBRINK_DATA_DIR=\"/srv/b\"\n", 0o644)
	g.Sh("brink-uninstall.sh")
	mustBeAsBefore(g, before)
}

// TestScriptSeveral: a second brink needs its own name and data, a run must say which it
// means, and one script takes all away. No unit has a secret.
func TestScriptSeveral(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	before := g.Snapshot()
	p := publish(g)
	p.installed(g, "")
	node := brinkProcess(g)
	second := "INSTALL_BRINK_NAME=two INSTALL_BRINK_SKIP_START=true INSTALL_BRINK_SKIP_CHECK=true"
	args := []string{"agent", "-token=S3CRET", "-server=https://192.0.2.1:6443"}
	if r := p.script(g, second, args...); r.Code == 0 || !strings.Contains(r.Stderr, "the service brink, brink's server, has its data in /var/lib/brink") {
		t.Errorf("an agent beside a server: %v", r)
	}
	p.installed(g, second, append(args, "-data-dir", "/srv/two")...)
	if r := g.TrySh("grep -l S3CRET /etc/systemd/system/*; stat -c %a /etc/systemd/system/brink-two.service.env; sed -n 's/^ExecStart=//p' /etc/systemd/system/brink-two.service"); r.Stdout != "/etc/systemd/system/brink-two.service.env\n600\n/usr/local/bin/brink agent \"--server=https://192.0.2.1:6443\" \"--data-dir\" \"/srv/two\"\n" {
		t.Errorf("the second service: %v", r)
	}
	g.Sh("cp /etc/systemd/system/brink.service /etc/systemd/system/brink.bak.service")
	if r := p.script(g, ""); r.Code == 0 || !strings.Contains(r.Stderr, "say which of them by INSTALL_BRINK_NAME: brink brink-two") {
		t.Errorf("a run that does not say which: %v", r)
	}
	g.Sh("rm /etc/systemd/system/brink.bak.service")
	if now := brinkProcess(g); now != node {
		t.Errorf("the node's process was %s and is %s", node, now)
	}
	g.Sh("brink-uninstall.sh")
	mustBeAsBefore(g, before)
}

// TestScriptReadOnly: a directory that has the binary and cannot be written gets nothing,
// and what takes brink away lies elsewhere and leaves the binary.
func TestScriptReadOnly(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	g.Place(guest.Program(t), "/opt/ro/brink", 0o755)
	g.Sh("mount --bind /opt/ro /opt/ro; mount -o remount,bind,ro /opt/ro")
	before := g.Snapshot()
	p := publish(g)
	variables := "INSTALL_BRINK_BIN_DIR=/opt/ro INSTALL_BRINK_BIN_DIR_READ_ONLY=1 CONTAINERD_HTTPS_PROXY=http://192.0.2.1:1"
	if said := p.installed(g, variables); !strings.Contains(said, "/etc/brink/brink-uninstall.sh takes it away") || !strings.Contains(said, "taking CONTAINERD_HTTPS_PROXY as HTTPS_PROXY") {
		t.Errorf("install.sh said %s", said)
	}
	g.EventuallySh("a Ready node", "/opt/ro/brink status")
	if got := g.Read("/etc/systemd/system/brink.service.env"); got != "HTTPS_PROXY=\"http://192.0.2.1:1\"\n" {
		t.Errorf("the variables are %q", got)
	}
	g.Sh("/etc/brink/brink-uninstall.sh; test -x /opt/ro/brink")
	mustBeAsBefore(g, before)
}
