package install

import (
	"os"
	"testing"

	"brink/e2e/guest"
)

// byHand is the system on which brink is installed without a script.
var byHand = guest.Systemd

// installByHand does what docs/install.md says for those who use no script.
func installByHand(g *guest.Guest) {
	g.Helper()
	g.Place(guest.Program(g), brink, 0o755)
	startByHand(g)
}

// startByHand makes the service for the binary that is there.
func startByHand(g *guest.Guest) {
	g.Helper()
	unit, err := os.ReadFile("../../docs/brink.service")
	if err != nil {
		g.Fatal(err)
	}
	g.Write("/etc/systemd/system/brink.service", string(unit), 0o644)
	g.Do(brink, "check")
	g.Sh("systemctl daemon-reload; systemctl -q enable --now brink")
	awaitReady(g)
}

// TestByHand follows docs/install.md: pods go on over a restart, and all comes back
// after a reboot.
func TestByHand(t *testing.T) {
	t.Parallel()
	g := guest.New(t, byHand)
	installByHand(g)
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
