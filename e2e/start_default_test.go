package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/layout"
)

// startDefault installs brink as anybody would: everything is where it is by
// default, and no command is told where to look. Two such nodes use the same
// paths, each on its own machine.
func startDefault(t *testing.T) *node {
	t.Helper()
	n, err := newDefaultNode()
	if n != nil {
		n.closeAfter(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if err := n.ImportImages(imageArchive); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDefaultInstallation is what the other tests' nodes, which all have their
// own places, cannot show.
func TestDefaultInstallation(t *testing.T) {
	n := startDefault(t)
	ns := newNamespace(t, n)
	ns.defaultPlaces()
	ns.apply(talker)
	ns.readyPod("talker")
	ns.mustEqual("exec", ns.exec("talker", "echo", "hello"), "hello")
	ns.collectorReads()

	other := startDefault(t)
	neighbour := newNamespace(t, other)
	neighbour.apply(sleeper("box", ""))
	neighbour.readyPod("box")
	before := neighbour.lives()

	// As an agent makes it, outside of the data directory.
	n.writeInside(t, "/etc/brink/node-password", strings.Repeat("0", 64)+"\n")
	uninstallsWhileRunning(t, n)
	for _, path := range []string{layout.DefaultData, "/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/var/lib/cni", "/run/brink", "/etc/brink/brink.yaml", "/etc/brink/node-password"} {
		if _, err := os.Lstat(n.Inside(path)); err == nil {
			t.Errorf("%s is there after uninstalling", path)
		}
	}
	neighbour.mustEqual("the life of another node's pod", neighbour.lives()["box"], before["box"])
	neighbour.mustEqual("exec in it", neighbour.exec("box", "echo", "hello"), "hello")
}

// defaultPlaces runs commands as they are typed on a node with one installation.
func (ns *namespace) defaultPlaces() {
	ns.Helper()
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"kubectl", "get", "nodes"}, []string{ns.node.ID, "Ready"}},
		{[]string{"ctr", "--namespace", "k8s.io", "images", "list"}, []string{busybox1}},
		{[]string{"token", "list"}, []string{"the own token of server " + ns.node.ID}},
		{[]string{"status"}, []string{ns.node.ID, "is ready"}},
	} {
		r, err := ns.node.Brink(tc.args...)
		if err != nil || r.Code != 0 {
			ns.Errorf("brink %s: %v %v", strings.Join(tc.args, " "), err, r)
		}
		ns.mustContain(r.Stdout, tc.want...)
	}
	info, err := os.Stat(ns.node.Inside("/etc/brink/brink.yaml"))
	if err != nil {
		ns.Fatal(err)
	}
	ns.mustEqual("the mode of the admin kubeconfig", info.Mode().Perm(), os.FileMode(0o600))
}

// collectorReads runs the widely known log collector as it is, and sees the
// talker's lines in its output.
func (ns *namespace) collectorReads() {
	ns.Helper()
	pod := ns.runCollector()
	for _, line := range []string{"line-1-end", "line-20-end"} {
		ns.eventually("the talker's "+line+" in the collector's output", func() error {
			out := ns.kubectl("--namespace=kube-system", "logs", pod.Name)
			return contains(out, ns.name+"-"+line)
		})
	}
	ns.collectorLimits(pod)
}

// uninstallsWhileRunning: what brink made goes, also without an orderly stop
// before.
func uninstallsWhileRunning(t *testing.T, n *node) {
	t.Helper()
	if err := n.UninstallOnly(); err != nil {
		t.Error(err)
	}
	if n.Running() {
		t.Error("brink runs after uninstalling")
		return
	}
	if code := n.Cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("brink stopped with %v for uninstall\n%s", n.Cmd.ProcessState, n.LogTail())
	}
	if _, err := os.Stat(filepath.Join(n.Inside(layout.ConfigDir), "config.yaml")); err != nil {
		t.Errorf("the owner's configuration has gone with brink: %v", err)
	}
}
