package install

import (
	"os"
	"strings"
	"testing"

	"brink/e2e/guest"
)

// drivenBySystemd lets systemd make pods' groups on cgroup v1 too, below a slice of which
// the machine has a unit.
const drivenBySystemd = "kubelet-arg:\n  - cgroup-driver=systemd\n  - cgroup-root=edge-pods.slice\n"

// TestSlices: pods are in slices of systemd, below the one that the user names, survive
// restarts of the service and are never moved to the other driver. After an uninstall no
// slice is left, but one that another program has made.
func TestSlices(t *testing.T) {
	t.Parallel()
	g := guest.New(t, guest.Systemd.With("nftables", "netbase"))
	g.Place(guest.Program(t), brink, 0o755)
	unit, err := os.ReadFile("../../docs/brink.service")
	if err != nil {
		t.Fatal(err)
	}
	g.Write("/etc/systemd/system/brink.service", string(unit), 0o644)
	g.Write("/etc/brink/config.yaml", drivenBySystemd, 0o600)
	g.Sh("systemctl daemon-reload; systemctl -q start kubepods-others.slice brink")
	awaitReady(g)
	deployWeb(g)
	processes := webProcesses(g)
	mustBeInSlice(g, strings.Fields(processes))
	g.Do("systemctl", "restart", "brink")
	awaitReady(g)
	if now := webProcesses(g); now != processes {
		t.Errorf("web's processes were %s and are %s after a restart", processes, now)
	}
	testDriverStays(g, processes)
	r := g.Run(brink, "uninstall", "--yes")
	if r.Code != 0 {
		t.Fatalf("uninstalling: %v", r)
	}
	if left := g.Sh("systemctl list-units --all --plain --no-legend -t slice,scope | cut -d' ' -f1; find /sys/fs/cgroup -name '*kubepods*' -o -name 'edge*'"); strings.Contains(left, "edge") {
		t.Errorf("left after\n%s\nare\n%s", r.Stdout, left)
	}
	g.Do("systemctl", "is-active", "kubepods-others.slice", "kubepods.slice")
}

// mustBeInSlice fails the test unless processes are in scopes below the slice, in the
// hierarchy of the memory controller as in systemd's own.
func mustBeInSlice(g *guest.Guest, processes []string) {
	g.Helper()
	const slice = "/edge.slice/edge-pods.slice/edge-pods-kubepods.slice/edge-pods-kubepods-besteffort.slice/edge-pods-kubepods-besteffort-pod"
	for _, pid := range processes {
		groups := g.Do("cat", "/proc/"+pid+"/cgroup")
		for _, hierarchy := range []string{":memory:", ":name=systemd:"} {
			if _, group, _ := strings.Cut(groups, hierarchy); !strings.HasPrefix(group, slice) || !strings.Contains(group, "/cri-containerd-") {
				g.Errorf("process %s of web is not below %s%s but in\n%s", pid, hierarchy, slice, groups)
			}
		}
	}
}

// testDriverStays: without the setting the node keeps its pods' driver, and the other one
// is refused while they run.
func testDriverStays(g *guest.Guest, processes string) {
	g.Helper()
	g.Write("/etc/brink/config.yaml", "kubelet-arg: cgroup-root=edge-pods.slice\n", 0o600)
	g.Do("systemctl", "restart", "brink")
	awaitReady(g)
	if now := webProcesses(g); now != processes {
		g.Errorf("web's processes were %s and are %s without the setting", processes, now)
	}
	g.Do("systemctl", "stop", "brink")
	r := g.Run(brink, "server", "--kubelet-arg=cgroup-driver=cgroupfs")
	if r.Code == 0 || !strings.Contains(r.Stderr, "containers of this node run with the driver systemd") || strings.Count(r.Stderr, "\n") != 1 {
		g.Errorf("another driver: %v, want one line that refuses it", r)
	}
	if now := webProcesses(g); now != processes {
		g.Errorf("web's processes were %s and are %s without brink", processes, now)
	}
}
