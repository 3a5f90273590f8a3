package e2e

import (
	"syscall"
	"testing"
	"time"
)

// TestSlowShims: a pod survives a start of brink in which its shim, read back from a
// slow card, does not answer for ten seconds.
func TestSlowShims(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.apply(sleeper("lasting", ""))
	before := ns.readyPod("lasting")
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	shims := n.Shims()
	if len(shims) == 0 {
		t.Fatal("no shims, this test shows nothing")
	}
	for _, pid := range shims {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	wake := func() {
		for _, pid := range shims {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	t.Cleanup(wake)
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Second)
	wake()
	if err := n.Await("the node to be Ready", func() error { return n.Says("out", "is Ready") }); err != nil {
		t.Fatal(err)
	}
	after := ns.readyPod("lasting")
	ns.mustEqual("the container of a pod", after.Status.ContainerStatuses[0].ContainerID, before.Status.ContainerStatuses[0].ContainerID)
	ns.mustEqual("its restarts", restarts(after), int32(0))
	ns.eventuallyExec("lasting", "here", "echo", "here")
}
