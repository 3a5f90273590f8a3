package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cutPower ends everything on a machine at once, and what the kernel had with it:
// mounts, links, rules and all of /run. What is on disk stays.
func (n *node) cutPower(t *testing.T) {
	t.Helper()
	trace := n.trace()
	isOther := func(pid int) bool { return pid != n.holder.pid() }
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		pids := slices.DeleteFunc(trace.processes(), func(pid int) bool { return !isOther(pid) })
		if len(pids) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	<-n.exited
	err := n.holder.run("sh", "-ec", `
# What the host has mounted below its own /run, such as /run/netns, is hidden here.
awk '{print $2}' /proc/mounts | grep -E "^($1|/run)/" | tac |
while read -r at; do ! mountpoint -q $at || umount -l $at; done
find /run -mindepth 1 -delete
mkdir /run/mount
for link in $(ip -o link show type vxlan | cut -d: -f2) $(ip -o link show type bridge | cut -d: -f2); do ip link delete $link; done
nft flush ruleset
ip route flush proto 98`, "sh", n.data)
	if err != nil {
		t.Fatal(err)
	}
}

// TestPowerIsBackBeforeTheServer: the node of a site whose uplink is down runs its
// static pods, with a network, and is one of the cluster's when a server answers.
func TestPowerIsBackBeforeTheServer(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1)
	n := c.agents[0]
	ns := newNamespace(t, c.server)
	manifest := filepath.Join(n.layout().Manifests(), "static.yaml")
	if err := os.WriteFile(manifest, []byte(hostPortPod("static", 28093)+"    env: [{name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	answers := func() error {
		name, err := sw.netns().get(fmt.Sprintf("http://%s:28093/hostname", n.addr))
		if err == nil && !strings.HasPrefix(name, "static-") {
			err = fmt.Errorf("%q answered", name)
		}
		return err
	}
	ns.eventually("the static pod", answers)
	n.cutPower(t)
	if err := answers(); err == nil {
		t.Fatal("the static pod answers without power, this test shows nothing")
	}
	if err := errors.Join(c.server.kill(), n.launch()); err != nil {
		t.Fatal(err)
	}
	ns.eventually("the static pod without a server", answers)
	if err := errors.Join(n.says("err", "this node starts as it was"), n.holder.run("sh", "-ec", "nft list table inet brink | grep -q masquerade")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.server.start(), n.await("the node to be Ready", func() error { return n.says("out", "node "+n.id+" is Ready") })); err != nil {
		t.Fatal(err)
	}
	ns.eventually("the static pod in the API", func() error {
		pod, err := c.server.client.CoreV1().Pods("default").Get(t.Context(), "static-"+n.id, metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
	n.hearsOfOtherSettings(t, c.server)
}

// hearsOfOtherSettings: the cluster is switched to another backend while the node,
// which starts meanwhile, hears nothing. It ends, and systemd starts it again.
func (n *node) hearsOfOtherSettings(t *testing.T, server *node) {
	t.Helper()
	server.config = append(server.config, "flannel-backend: host-gw")
	if err := errors.Join(server.stop(), n.stop(), n.launch(), server.writeConfig()); err != nil {
		t.Fatal(err)
	}
	err := n.await("a start without a server", func() error { return n.says("err", "this node starts as it was") })
	if err := errors.Join(err, server.start()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.exited:
	case <-time.After(patience):
		t.Fatal("the node goes on with the settings of before")
	}
	if err := n.says("err", "the cluster's settings are others than those that this node started with: start brink again to use them"); err != nil || n.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v, exit code %d", err, n.cmd.ProcessState.ExitCode())
	}
	if err := n.start(); err != nil {
		t.Fatal(err)
	}
}
