package e2e

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shims are the processes that hold a machine's containers while brink is away.
func (m *machine) shims() []int {
	var out []int
	for _, pid := range m.trace().processes() {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if strings.HasPrefix(string(name), "containerd-shim") {
			out = append(out, pid)
		}
	}
	return out
}

// TestSlowShims: a pod survives a start of brink in which its shim, read back from a
// slow card, does not answer for ten seconds.
func TestSlowShims(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	ns := newNamespace(t, n)
	ns.apply(sleeper("lasting", ""))
	before := ns.readyPod("lasting")
	if err := n.kill(); err != nil {
		t.Fatal(err)
	}
	shims := n.shims()
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
	if err := n.launch(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Second)
	wake()
	if err := n.await("the node to be Ready", func() error { return n.says("out", "is Ready") }); err != nil {
		t.Fatal(err)
	}
	after := ns.readyPod("lasting")
	ns.mustEqual("the container of a pod", after.Status.ContainerStatuses[0].ContainerID, before.Status.ContainerStatuses[0].ContainerID)
	ns.mustEqual("its restarts", restarts(after), int32(0))
	ns.eventuallyExec("lasting", "here", "echo", "here")
}
