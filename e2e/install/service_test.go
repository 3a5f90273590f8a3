package install

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"brink/e2e/guest"
)

// TestServiceTakenOut: uninstalling takes brink's service out of systemd, also while it
// waits for its next restart, and no other.
func TestServiceTakenOut(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	p := publish(g)
	g.Write("/etc/systemd/system/kiosk.service", "[Service]\nExecStart=/bin/sleep 100000\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	g.Sh("systemctl daemon-reload; systemctl -q enable --now kiosk")
	p.installed(g, "")
	g.Sh("brink-killall.sh")
	if r := g.TrySh("systemctl is-active brink; systemctl is-enabled brink; ls /var/lib/brink/server/db/state.db"); !strings.HasPrefix(r.Stdout, "inactive\nenabled\n/") {
		t.Errorf("after brink-killall.sh: %v", r)
	}
	p.installed(g, "")
	g.Write("/etc/brink/config.yaml", "no-such-key: 1\n", 0o600)
	g.TrySh("systemctl restart brink")
	g.EventuallySh("a service that waits for its restart", `[ "$(systemctl show -p SubState brink)" = SubState=auto-restart ]`)
	said := g.Sh("brink uninstall --yes --data-dir /var/lib/brink")
	if !strings.Contains(said, "disabling the service brink.service") || !strings.Contains(said, "kept /etc/brink/config.yaml") {
		t.Errorf("uninstall said %s", said)
	}
	time.Sleep(8 * time.Second) // longer than a restart takes to come
	state := g.TrySh("systemctl is-active brink kiosk; systemctl is-enabled brink brink-pods kiosk; ls /var/lib/brink /run/brink 2>&1").Stdout
	if !strings.HasPrefix(state, "inactive\nactive\ndisabled\ndisabled\nenabled\n") || strings.Count(state, "No such file") != 2 {
		t.Errorf("afterwards there is %s", state)
	}
}

// TestWatchdog: systemd hears what a start waits for, and restarts a brink that hangs.
// Pods run on.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd)
	g.Write("/etc/systemd/system/brink.service.d/fast.conf", "[Service]\nWatchdogSec=20s\n", 0o644)
	p := publish(g)
	p.installed(g, "")
	if status := g.Do("systemctl", "show", "-p", "StatusText", "brink"); status != "StatusText=node guest is Ready" {
		g.EventuallySh("a status that says Ready", `[ "$(systemctl show -p StatusText brink)" = "StatusText=node guest is Ready" ]`)
	}
	deployWeb(g)
	pods, node := webProcesses(g), brinkProcess(g)
	time.Sleep(30 * time.Second)
	if now := brinkProcess(g); now != node {
		t.Fatalf("a node that is well was restarted: %s, %s", node, now)
	}
	g.Sh("kill -STOP " + node)
	g.EventuallySh("a restart", fmt.Sprintf(`pid=$(systemctl show -p MainPID --value brink); [ "$pid" != 0 ] && [ "$pid" != %s ]`, node))
	awaitReady(g)
	if now := webProcesses(g); now != pods {
		t.Errorf("pods were %s and are %s", pods, now)
	}
}
