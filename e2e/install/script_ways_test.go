package install

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"brink/e2e/guest"
)

// TestScriptAirgap: a machine without a network gets a tarball, and with it images.
func TestScriptAirgap(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	before := g.Snapshot("/root/air/")
	d := guest.NewDist(t)
	version := d.Add(guest.Program(t))
	g.Place(d.Airgap(version), "/root/air/a.tar", 0o644)
	top := "/root/air/" + strings.TrimSuffix(g.Sh("tar -tf /root/air/a.tar | head -n 1 | cut -d/ -f1"), "/")
	g.Sh("tar -xf /root/air/a.tar -C /root/air; rm /root/air/a.tar")
	g.Place(imageArchive(g), top+"/images/busybox.tar", 0o644)
	g.Write(top+"/images/README", "not an image", 0o644)
	g.Sh("cd " + top + "; ./install.sh")
	awaitReady(g)
	g.EventuallySh("the image", "brink images list | grep -q "+strings.Split(busybox, ":")[0])
	if r := g.TrySh("ls /var/lib/brink/agent/images"); strings.TrimSpace(r.Stdout) != "busybox.tar" {
		t.Errorf("there are the archives %v", r)
	}
	g.Sh("brink-uninstall.sh; rm -rf /root/air")
	mustBeAsBefore(g, before)
}

// TestScriptK3sHabits: an agent joins by k3s's variables, with its token where only root
// reads it; the script runs with nothing but busybox.
func TestScriptK3sHabits(t *testing.T) {
	t.Parallel()
	server := guest.New(t, guest.Systemd, guest.Named("server"))
	p := publish(server)
	p.installed(server, "")
	token := server.Do("brink", "token", "create")
	agent := guest.New(t, guest.OpenRC.With("busybox"), guest.Named("agent"), guest.On(server.Net()))
	before := agent.Snapshot()
	agent.Sh("mkdir /root/bb; busybox --install -s /root/bb; rm -f /root/bb/sh; ln -s /bin/busybox /root/bb/sh; curl -sf " + p.url + "/install.sh >/root/install.sh")
	said := agent.Run("env", "-i", "PATH=/root/bb", "HOME=/root", "INSTALL_K3S_MIRROR="+p.url, fmt.Sprintf("K3S_URL=https://%s:6443", server.Addr()),
		"K3S_TOKEN="+token, "INSTALL_K3S_EXEC=--node-label=shop=a", "K3S_SELINUX=true", "sh", "/root/install.sh")
	if said.Code != 0 || !strings.Contains(said.Stderr, "taking K3S_TOKEN as BRINK_TOKEN") || !strings.Contains(said.Stderr, "ignoring K3S_SELINUX") {
		t.Fatal(said)
	}
	server.EventuallySh("the agent, with its label", `kubectl wait --for=condition=Ready node/agent --timeout=5s && [ "$(kubectl get node -l shop=a -o name)" = node/agent ]`)
	secretIsKept(agent, token)

	// A rerun with nothing said is an agent's still.
	if said := p.installed(agent, ""); !strings.Contains(said, "nothing has changed") {
		t.Errorf("a rerun of an agent: %s", said)
	}
	agent.Sh("brink-uninstall.sh; rm -r /root/bb /root/install.sh")
	mustBeAsBefore(agent, before)
}

// secretIsKept looks for a token where others than root could read it.
func secretIsKept(g *guest.Guest, token string) {
	g.Helper()
	secret := filepath.Base(token)
	if r := g.TrySh("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -F '" + secret + "'"); strings.Contains(strings.ReplaceAll(r.Stdout, "grep -F", ""), secret) && !strings.Contains(r.Stdout, "grep") {
		g.Errorf("the token is in the list of processes: %v", r)
	}
	for _, file := range strings.Fields(g.TrySh("grep -rlF '" + secret + "' /etc /usr/local /var/lib/brink /var/log /run 2>/dev/null").Stdout) {
		if mode := g.Do("stat", "-c", "%a", file); !strings.HasSuffix(mode, "00") {
			g.Errorf("the token is in %s, which has mode %s", file, mode)
		}
	}
}
