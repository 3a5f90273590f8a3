package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plantedTree are the user's files below a directory, and what is in them.
type plantedTree map[string]string

func (p plantedTree) plant(t *testing.T, n *node, dir string) {
	t.Helper()
	for name, content := range p {
		n.writeInside(t, filepath.Join(dir, name), content)
	}
}

func (p plantedTree) mustBeThere(t *testing.T, n *node, dir string) {
	t.Helper()
	for name, content := range p {
		got, err := os.ReadFile(n.Inside(filepath.Join(dir, name)))
		if err != nil || string(got) != content {
			t.Errorf("%s of the user: %q (%v), want %q", filepath.Join(dir, name), got, err, content)
		}
	}
}

// TestDiskOfSomebody: a disk with other things on it is no data directory, whatever
// they are called: not for a start, not for check, not for uninstall.
func TestDiskOfSomebody(t *testing.T) {
	n := prepareNode(t)
	photos := plantedTree{
		"data/photos/a.jpg": "a", "server/site/index.html": "b", "agent/recordings/1.wav": "c", "data/" + strings.Repeat("ab", 32) + "/chunk": "d",
	}
	disk := filepath.Join(n.Dir, "disk")
	photos.plant(t, n, disk)
	for _, tc := range []struct {
		dir, want string
		commands  []string
	}{
		{disk, "holds what brink did not put there (agent/recordings, data/", []string{"server", "check", "uninstall"}},
		{"/srv", "directory of the system", []string{"server", "check", "uninstall"}},
		{"/mnt", "directory of the system", []string{"server"}},
	} {
		for _, command := range tc.commands {
			args := []string{command, "--data-dir", tc.dir}
			want := []string{tc.dir}
			switch command {
			case "uninstall":
				args = append(args, "--yes")
			default:
				args, want = append(args, "--config", n.ConfigFile()), append(want, tc.want)
			}
			r, err := n.Brink(args...)
			if err != nil || r.Code != 1 {
				t.Errorf("brink %s: %v %v", strings.Join(args, " "), err, r)
				continue
			}
			if said := r.Stdout + r.Stderr; command != "uninstall" && !saysAll(said, want) || command == "uninstall" && !strings.Contains(said, tc.dir) {
				t.Errorf("brink %s does not say %q: %v", strings.Join(args, " "), want, r)
			}
		}
	}
	photos.mustBeThere(t, n, disk)
	if entries, err := os.ReadDir(n.Inside(disk)); err != nil || len(entries) != 3 {
		t.Errorf("on the disk are %v (%v)", entries, err)
	}
}

func saysAll(text string, wanted []string) bool {
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			return false
		}
	}
	return true
}

// TestOthersBesideANode: a node with its data behind a link, on a machine whose
// mounts are private, runs and is started again; then it is uninstalled from among
// what others have put under all of its names.
func TestOthersBesideANode(t *testing.T) {
	n := prepareNode(t)
	forwarding := readInside(t, n, "/proc/sys/net/ipv4/ip_forward")
	if r, err := n.Run("", "mount", "--make-rprivate", "/"); err != nil || r.Code != 0 {
		t.Fatal(err, r)
	}
	// The real directory is the one that the tests know, the node gets a link to it.
	link := filepath.Join(n.Dir, "link")
	if r, err := n.Run("", "ln", "-s", filepath.Dir(n.Data), link); err != nil || r.Code != 0 {
		t.Fatal(err, r)
	}
	n.Config[0] = "data-dir: " + filepath.Join(link, filepath.Base(n.Data))
	if err := n.WriteConfig(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	pod := n.outlivesRestarts(t)
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	n.keepsMounts(t, filepath.Join(n.Layout().Kubelet(), "pods", pod))
	theirs := plantedTree{
		"notes.txt": "1", "agent/images/b.tar": "2", "agent/recordings/1.wav": "3", "server/db/backup.db": "4", "server/tls/client-bob.key": "5",
		"agent/containerd/photo.jpg": "6", "agent/kubelet/config.yaml": "7", "agent/kubelet/pods/0b0e7a52/volumes/kubernetes.io~empty-dir/x/y": "8",
		"data/" + strings.Repeat("ab", 32) + "/chunk": "9", "agent/cni/state/brink/album.jpg": "10", "agent/pod-logs/default_web_0b0e7a52/c/0.log": "11",
	}
	theirs.plant(t, n, n.Data)
	said := n.uninstallAmong(t)
	theirs.mustBeThere(t, n, n.Data)
	theirs.takeAway(t, n, said)
	if left := n.LeftData(); len(left) > 0 {
		t.Errorf("of brink there is %q", left)
	}
	if got := readInside(t, n, "/proc/sys/net/ipv4/ip_forward"); got != forwarding {
		t.Errorf("ip_forward was %s and is %s", forwarding, got)
	}
}

// outlivesRestarts starts a pod and brink twice again: the pod does not notice, and the
// node's directories are as after one start. It returns the pod's uid.
func (n *node) outlivesRestarts(t *testing.T) (uid string) {
	t.Helper()
	ns := newNamespace(t, n)
	ns.apply(sleeper("box", ""))
	ns.readyPod("box")
	before := ns.lives()
	for range 2 {
		if err := n.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	ns.mustEqual("the pod after two restarts", ns.lives()["box"], before["box"])
	l := n.Layout()
	if binds := n.mountsAt(t, l.Kubelet()); binds != 1 {
		t.Errorf("the kubelet's directory is mounted on itself %d times: pods see no change of their Secrets", binds)
	}
	if info, err := os.Stat(n.Inside(l.Agent())); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the agent's directory: %v (%v)", info, err)
	}
	return string(ns.readyPod("box").UID)
}

// takeAway removes what others have put below the data directory. Uninstalling must have
// said that it is kept.
func (p plantedTree) takeAway(t *testing.T, n *node, said string) {
	t.Helper()
	for name := range p {
		first := strings.Join(strings.SplitN(name, "/", 3)[:min(2, strings.Count(name, "/")+1)], "/")
		if !strings.Contains(said, "kept "+filepath.Join(n.Data, first)) {
			t.Errorf("%s is not named in\n%s", name, said)
		}
		if err := os.Remove(n.Inside(filepath.Join(n.Data, name))); err != nil {
			t.Error(err)
		}
	}
	n.removeEmptyDirs(t)
}

// uninstallAmong uninstalls by the link's path and returns what was said.
func (n *node) uninstallAmong(t *testing.T, flags ...string) string {
	t.Helper()
	r, err := n.Brink(append([]string{"uninstall", "--yes", "--data-dir", strings.TrimPrefix(n.Config[0], "data-dir: ")}, flags...)...)
	if err != nil || r.Code != 0 {
		t.Fatalf("brink uninstall: %v %v", err, r)
	}
	return r.Stdout
}

// keepsMounts: what somebody has mounted in a pod's directory stays mounted and is named
// when pods and mounts are taken down.
func (n *node) keepsMounts(t *testing.T, pod string) {
	t.Helper()
	mine := filepath.Join(pod, "mine")
	for _, command := range [][]string{{"mkdir", mine}, {"mount", "-t", "tmpfs", "mine", mine}} {
		if r, err := n.Run("", command...); err != nil || r.Code != 0 {
			t.Fatal(err, r)
		}
	}
	said := n.uninstallAmong(t, "--keep-data")
	if !strings.Contains(said, "kept "+mine+", which somebody else has mounted") || n.mountsAt(t, mine) != 1 {
		t.Errorf("it is mounted %d times after\n%s", n.mountsAt(t, mine), said)
	}
	if r, err := n.Run("", "umount", mine); err != nil || r.Code != 0 {
		t.Fatal(err, r)
	}
}

// removeEmptyDirs removes the directories that were only on the way to the user's
// files, deepest first.
func (n *node) removeEmptyDirs(t *testing.T) {
	t.Helper()
	if r, err := n.Run("", "find", n.Data, "-mindepth", "1", "-depth", "-type", "d", "-empty", "-delete"); err != nil || r.Code != 0 {
		t.Error(err, r)
	}
}

func readInside(t *testing.T, n *node, path string) string {
	t.Helper()
	r, err := n.Run("", "cat", path)
	if err != nil || r.Code != 0 {
		t.Fatal(err, r)
	}
	return strings.TrimSpace(r.Stdout)
}

// mountsAt counts what is mounted at a path, one over the other.
func (n *node) mountsAt(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(n.Holder.Proc("mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for line := range strings.Lines(string(text)) {
		if strings.Fields(line)[4] == path {
			count++
		}
	}
	return count
}
