package install

import (
	"os"
	"testing"

	"brink/e2e/guest"
)

// TestByHand installs brink as docs/install.md says for those who use no script: pods go
// on over a restart, and all comes back after a reboot.
func TestByHand(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd.With("nftables", "netbase"))
	g.Place(guest.Program(t), brink, 0o755)
	unit, err := os.ReadFile("../../docs/brink.service")
	if err != nil {
		t.Fatal(err)
	}
	g.Write("/etc/systemd/system/brink.service", string(unit), 0o644)
	g.Do(brink, "check")
	g.Sh("systemctl daemon-reload; systemctl -q enable --now brink")
	awaitReady(g)
	deployWeb(g)
	processes := webProcesses(g)
	g.Do("systemctl", "restart", "brink")
	awaitReady(g)
	if now := webProcesses(g); now != processes {
		t.Errorf("web's processes were %s and are %s after a restart", processes, now)
	}
	t.Logf("down after %v", g.Reboot())
	awaitReady(g)
	awaitWeb(g)
}
