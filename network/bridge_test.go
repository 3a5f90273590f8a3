package network

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// attachPod does what the CNI plugins do for a pod.
func attachPod(t *testing.T, cfg Config) netns.NsHandle {
	t.Helper()
	pod := otherNetns(t)
	bridge := addBridge(t, "brink0", "10.42.3.1/24", "fd42:0:0:3::1/64")
	link := connect(t, "vethpod", pod, []string{"10.42.3.10/24", "fd42:0:0:3::10/64"}, []string{"10.42.3.1", "fd42:0:0:3::1"})
	must(t, netlink.LinkSetMaster(link, bridge))
	must(t, netlink.LinkSetHairpin(link, true))
	results := filepath.Join(cfg.CNICacheDir, "results")
	for _, dir := range []string{cfg.leases(), results} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	must(t, os.WriteFile(filepath.Join(cfg.leases(), "10.42.3.10"), []byte("id\r\neth0"), 0o644))
	for id, veth := range map[string]string{"id": "vethpod", "gone": "stranger"} {
		text := fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "ifName": "eth0", "networkName": "brink",
			"result": {"cniVersion": "1.1.0", "interfaces": [{"name": "brink0"}, {"name": %q}, {"name": "eth0", "sandbox": "/run/netns/x"}]}}`, id, veth)
		must(t, os.WriteFile(filepath.Join(results, "brink-"+id+"-eth0"), []byte(text), 0o600))
	}
	return pod
}

// TestEventsWakeTheLoop: it must not take a tick, which is a day away here.
func TestEventsWakeTheLoop(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	cfg := dualStack(t)
	cfg.CheckEvery = 24 * time.Hour
	attachPod(t, cfg)
	connect(t, "stranger", otherNetns(t), nil, nil)
	runIn(t, ns, cfg)
	want := state(t)
	link, err := netlink.LinkByName("brink0")
	must(t, err)
	must(t, netlink.LinkDel(link))
	eventually(t, "repaired", func() bool { return state(t) == want })
}

// TestNoBridgeWithoutPods: until the first pod there is nothing to repair.
func TestNoBridgeWithoutPods(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	cfg := dualStack(t)
	n := openNode(t, cfg)
	must(t, n.reconcile(t.Context()))
	must(t, os.MkdirAll(cfg.leases(), 0o755))
	must(t, os.WriteFile(filepath.Join(cfg.leases(), "lock"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(cfg.leases(), "last_reserved_ip.0"), []byte("10.42.3.10"), 0o644))
	must(t, n.reconcile(t.Context()))
	if got := linkNames(t); got != "lo" {
		t.Errorf("links are %s", got)
	}
}

func TestForeignLinkOfTheBridgesName(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	cfg := dualStack(t)
	must(t, os.MkdirAll(cfg.leases(), 0o755))
	must(t, os.WriteFile(filepath.Join(cfg.leases(), "10.42.3.10"), []byte("id\r\neth0"), 0o644))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "brink0"
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	n := openNode(t, cfg)
	if err := n.reconcile(t.Context()); err == nil || !strings.Contains(err.Error(), "there is a vxlan of this name: remove or rename it") {
		t.Errorf("got %v", err)
	}
}
