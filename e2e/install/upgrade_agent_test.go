package install

import (
	"os"
	"strings"
	"testing"
	"time"

	"brink/e2e/guest"
	"brink/e2e/machine"
)

// newAgentOf installs an agent of a server on a guest of its own.
func newAgentOf(t *testing.T, server *guest.Guest) *guest.Guest {
	t.Helper()
	g := guest.New(t, guest.Systemd.With("nftables", "netbase"), guest.On(server.Net()), guest.Named("agent"))
	g.Place(guest.Program(t), brink, 0o755)
	unit, err := os.ReadFile("../../docs/brink-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(server.Do(brink, "token", "create"))
	g.Write("/etc/systemd/system/brink-agent.service", string(unit), 0o644)
	g.Write("/etc/default/brink-agent", "BRINK_URL=https://"+server.Addr().String()+":6443\nBRINK_TOKEN="+token+"\n", 0o600)
	g.Sh("systemctl daemon-reload; systemctl -q enable --now brink-agent")
	g.EventuallySh("a Ready agent", brink+" status")
	return g
}

// TestUpgradeAgent: an agent is never newer than a server that says its version. Without a
// server it is upgraded by force, and nothing is decided until a server answers.
func TestUpgradeAgent(t *testing.T) {
	t.Parallel()
	server := guest.New(t, guest.Systemd.With("nftables", "netbase"))
	server.Place(guest.Program(t), brink, 0o755)
	installSystemd(server)
	awaitReady(server)
	agent := newAgentOf(t, server)
	next, err := machine.VersionOf(guest.Program(t))
	if err != nil {
		t.Fatal(err)
	}
	next.Number++
	u := &upgrading{Guest: agent, dist: guest.NewDist(t)}
	u.url = agent.Serve(u.dist.Dir)
	u.dist.Add(u.build(next))
	refused := func(want string) {
		t.Helper()
		if r := u.upgrade(); r.Code == 0 || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, want) {
			t.Errorf("brink upgrade: %v, want %q", r, want)
		}
	}
	refused("upgrade the server first")
	server.Do("systemctl", "stop", "brink")
	refused("give --force")
	agent.Sh(brink + " upgrade --force --timeout 10s --mirror " + u.url + " >/root/upgrade.log 2>&1 &")
	agent.EventuallySh("the new version to be judged", `grep -q '"phase": "watching"' /var/lib/brink/upgrade/upgrade.json`)
	time.Sleep(20 * time.Second) // twice what the new version is given
	agent.Sh(`grep -q '"phase": "watching"' /var/lib/brink/upgrade/upgrade.json`)
	server.Do("systemctl", "start", "brink")
	agent.EventuallySh("the upgrade to be done", `grep -q '"phase": "done"' /var/lib/brink/upgrade/upgrade.json`)
	if got := guestVersion(agent, brink); got != next.String() {
		t.Errorf("the agent is %s, want %s", got, next)
	}
}
