package network

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"brink/network/testnet"
)

// attachPod does what the CNI plugins do for a pod.
func attachPod(t *testing.T, cfg Config) netns.NsHandle {
	t.Helper()
	pod := testnet.New(t)
	bridge := testnet.AddBridge(t, "brink0", "10.42.3.1/24", "fd42:0:0:3::1/64")
	link := testnet.Connect(t, "vethpod", pod, []string{"10.42.3.10/24", "fd42:0:0:3::10/64"}, []string{"10.42.3.1", "fd42:0:0:3::1"})
	testnet.Must(t, netlink.LinkSetMaster(link, bridge))
	testnet.Must(t, netlink.LinkSetHairpin(link, true))
	leases, results := filepath.Join(cfg.CNIStateDir, "brink"), filepath.Join(cfg.cniCacheDir, "results")
	for _, dir := range []string{leases, results} {
		testnet.Must(t, os.MkdirAll(dir, 0o755))
	}
	testnet.Must(t, os.WriteFile(filepath.Join(leases, "10.42.3.10"), []byte("id\r\neth0"), 0o644))
	for id, veth := range map[string]string{"id": "vethpod", "gone": "stranger"} {
		text := fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "ifName": "eth0", "networkName": "brink",
			"result": {"cniVersion": "1.1.0", "interfaces": [{"name": "brink0"}, {"name": %q}, {"name": "eth0", "sandbox": "/run/netns/x"}]}}`, id, veth)
		testnet.Must(t, os.WriteFile(filepath.Join(results, "brink-"+id+"-eth0"), []byte(text), 0o600))
	}
	return pod
}

// TestEventsWakeTheLoop: it must not take a tick, which is a day away here.
func TestEventsWakeTheLoop(t *testing.T) {
	t.Parallel()
	ns := testnet.Enter(t)
	cfg := dualStack(t)
	cfg.checkEvery = 24 * time.Hour
	attachPod(t, cfg)
	testnet.Connect(t, "stranger", testnet.New(t), nil, nil)
	runIn(t, ns, cfg)
	want := state(t)
	link, err := netlink.LinkByName("brink0")
	testnet.Must(t, err)
	testnet.Must(t, netlink.LinkDel(link))
	testnet.Eventually(t, "repaired", func() bool { return state(t) == want })
}
