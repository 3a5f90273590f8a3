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
	isHolder := func(pid int) bool { return pid == n.Holder.PID() }
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		pids := slices.DeleteFunc(n.Processes(), isHolder)
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
	<-n.Exited
	err := n.Holder.Run("sh", "-ec", `
# What the host has mounted below its own /run, such as /run/netns, is hidden here.
awk '{print $2}' /proc/mounts | grep -E "^($1|/run)/" | tac |
while read -r at; do ! mountpoint -q $at || umount -l $at; done
find /run -mindepth 1 -delete
mkdir /run/mount
for link in $(ip -o link show type vxlan | cut -d: -f2) $(ip -o link show type bridge | cut -d: -f2); do ip link delete $link; done
nft flush ruleset
ip route flush proto 98`, "sh", n.Data)
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
	manifest := filepath.Join(n.Layout().Manifests(), "static.yaml")
	if err := os.WriteFile(manifest, []byte(hostPortPod("static", 28093)+"    env: [{name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	answers := func() error {
		name, err := sw.Netns().Get(fmt.Sprintf("http://%s:28093/hostname", n.Addr))
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
	if err := errors.Join(c.server.Kill(), n.Launch()); err != nil {
		t.Fatal(err)
	}
	ns.eventually("the static pod without a server", answers)
	if err := errors.Join(n.Says("err", "this node starts as it was"), n.Holder.Run("sh", "-ec", "nft list table inet brink | grep -q masquerade")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(c.server.Start(), n.Await("the node to be Ready", func() error { return n.Says("out", "node "+n.ID+" is Ready") })); err != nil {
		t.Fatal(err)
	}
	ns.eventually("the static pod in the API", func() error {
		pod, err := c.server.Client.CoreV1().Pods("default").Get(t.Context(), "static-"+n.ID, metav1.GetOptions{})
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
	server.Config = append(server.Config, "flannel-backend: host-gw")
	if err := errors.Join(server.Stop(), n.Stop(), n.Launch(), server.WriteConfig()); err != nil {
		t.Fatal(err)
	}
	err := n.Await("a start without a server", func() error { return n.Says("err", "this node starts as it was") })
	if err := errors.Join(err, server.Start()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.Exited:
	case <-time.After(patience):
		t.Fatal("the node goes on with the settings of before")
	}
	if err := n.Says("err", "the cluster's settings are others than those that this node started with: start brink again to use them"); err != nil || n.Cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v, exit code %d", err, n.Cmd.ProcessState.ExitCode())
	}
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
}
