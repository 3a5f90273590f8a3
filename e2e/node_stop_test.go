package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// stopped is a pod whose process does something when it is told to end, and has so many
// seconds for it.
func stopped(name, onTerm string, grace int) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: %d
  containers:
  - name: main
    image: e2e.local/busybox:1
    command: [sh, -c, "trap '%s' TERM; while true; do sleep 0.1; done"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
`, name, grace, onTerm)
}

const (
	polite   = "sleep 2; echo done >/scratch/end; exit 0"
	stubborn = ":"
)

// TestStopPods: each pod ends in its own time, whether brink runs or not, no file goes,
// and the next start brings all back.
func TestStopPods(t *testing.T) {
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.apply(stopped("polite", polite, 60))
	ns.apply(stopped("stubborn", stubborn, 5))
	ends := filepath.Join(n.Layout().Kubelet(), "pods", string(ns.readyPod("polite").UID), "volumes/kubernetes.io~empty-dir/scratch/end")
	uid := ns.readyPod("stubborn").UID

	if got := n.stopPods(t); got < 5*time.Second {
		t.Errorf("a pod with 5 s to end was killed after %s", got)
	}
	if text, err := os.ReadFile(n.Inside(ends)); err != nil || string(text) != "done\n" {
		t.Errorf("the pod that needs 2 of its 60 s: %q %v", text, err)
	}

	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"polite", "stubborn"} {
		ns.podThat(name, "was started again", podReady)
	}
	ns.mustEqual("the pod's uid", ns.readyPod("stubborn").UID, uid)
	ns.apply(stopped("forever", stubborn, 100000))
	ns.readyPod("forever")
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	n.stopPods(t, "--timeout", "1s")
	if left := n.podProcesses(t); len(left) > 0 {
		t.Errorf("of the pods there are %q", left)
	}
}

// stopPods returns how long it took.
func (n *node) stopPods(t *testing.T, more ...string) time.Duration {
	t.Helper()
	begun := time.Now()
	r, err := n.Brink(append([]string{"stop", "--pods", "--data-dir", n.Data}, more...)...)
	if err != nil || r.Code != 0 || !strings.Contains(r.Stdout, "took down ") || !strings.Contains(r.Stdout, " pods with ") {
		t.Fatalf("brink stop --pods: %v %v", err, r)
	}
	return time.Since(begun)
}

// podProcesses are those that a bundle in the run directory still names.
func (n *node) podProcesses(t *testing.T) []string {
	t.Helper()
	pids, err := filepath.Glob(n.Inside(filepath.Join(n.Layout().ContainerdState(), "io.containerd.runtime.v2.task/*/*/init.pid")))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, path := range pids {
		if pid, err := os.ReadFile(path); err == nil {
			if name, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline")); err == nil && len(name) > 0 {
				out = append(out, string(name))
			}
		}
	}
	return out
}

// TestStopAlone: without --pods brink alone stops, and a second stop says that there is
// nothing to do.
func TestStopAlone(t *testing.T) {
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.apply(sleeper("lives", ""))
	ns.readyPod("lives")
	before := ns.lives()
	for _, want := range []string{"stopping brink, pid ", "brink does not run with data directory " + n.Data} {
		r, err := n.Brink("stop", "--data-dir", n.Data)
		if err != nil || r.Code != 0 || !strings.Contains(r.Stdout, want) {
			t.Fatalf("brink stop: %v %v, want %q", err, r, want)
		}
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns.readyPod("lives")
	ns.mustEqual("the pod's life", ns.lives()["lives"], before["lives"])
}
