package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"brink/network/testnet"
)

func TestRemove(t *testing.T) {
	t.Parallel()
	ns := testnet.Enter(t)
	cfg := dualStack(t)
	runBriefly(t, ns, cfg)
	bridge := testnet.AddBridge(t, "brink0")
	pod, stranger := testnet.New(t), testnet.New(t)
	testnet.Must(t, netlink.LinkSetMaster(testnet.Connect(t, "pod", pod, nil, nil), bridge))
	testnet.Connect(t, "stranger", stranger, nil, nil)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "nic" // somebody put a real port on our bridge
	testnet.Must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	testnet.Must(t, netlink.LinkSetMaster(testnet.Up(t, "nic"), bridge))
	testnet.AddBridge(t, "docker0")
	testnet.NFT(t, "add", "table", "inet", "somebody")
	testnet.NFT(t, "add", "table", "ip", "kube-proxy")
	testnet.Must(t, os.WriteFile(filepath.Join(cfg.CNIConfDir, "99-other.conf"), nil, 0o644))

	for range 2 { // the second time finds nothing, which is no error
		testnet.Must(t, Remove(cfg))
		if got := testnet.LinkNames(t); got != "lo stranger nic docker0" {
			t.Errorf("links left: %s", got)
		}
		if got := testnet.NFT(t, "list", "tables"); got != "table inet somebody\ntable ip kube-proxy\n" {
			t.Errorf("tables left:\n%s", got)
		}
		if entries, err := os.ReadDir(cfg.CNIConfDir); err != nil || len(entries) != 1 || entries[0].Name() != "99-other.conf" {
			t.Errorf("configuration left: %v %v", entries, err)
		}
		if _, err := os.Stat(cfg.CNIStateDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state left: %v", err)
		}
	}
}

// runBriefly starts the component and stops it again.
func runBriefly(t *testing.T, ns netns.NsHandle, cfg Config) {
	t.Helper()
	testnet.Inside(t, ns, func() error {
		ctx, cancel := context.WithCancel(t.Context())
		return New(cfg).Component().Run(ctx, cancel)
	})
}

func TestStopLeavesEverything(t *testing.T) {
	t.Parallel()
	ns := testnet.Enter(t)
	cfg := dualStack(t)
	runBriefly(t, ns, cfg)
	if got := testnet.NFT(t, "list", "table", "inet", "brink"); got != dualStackTable {
		t.Errorf("rules after the stop:\n%s", got)
	}
	if _, err := os.Stat(filepath.Join(cfg.CNIConfDir, "10-brink.conflist")); err != nil {
		t.Error(err)
	}
}

func TestRemoveLeavesAForeignLinkOfTheName(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "brink0"
	testnet.Must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	if err := Remove(dualStack(t)); err == nil || !strings.Contains(err.Error(), "link brink0 is a vxlan") {
		t.Errorf("got %v", err)
	}
	if got := testnet.LinkNames(t); got != "lo brink0" {
		t.Errorf("links left: %s", got)
	}
}

// TestRemoveEmptyHostPorts: when the pods are gone the plugin has left an empty
// table, which goes unless it was there before the node.
func TestRemoveEmptyHostPorts(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("there before: %t", before), func(t *testing.T) {
			t.Parallel()
			ns := testnet.Enter(t)
			cfg := dualStack(t)
			add := func() { testnet.NFT(t, "add table ip cni_hostport; add chain ip cni_hostport hostports") }
			if before {
				add()
			}
			runBriefly(t, ns, cfg)
			add()
			runBriefly(t, ns, cfg) // a restart knows no more than the first start
			testnet.Must(t, Remove(cfg))
			if got := testnet.NFT(t, "list", "tables"); (got != "") != before {
				t.Errorf("tables are %q", got)
			}
		})
	}
}

func TestRemovePeers(t *testing.T) {
	t.Parallel()
	s := testnet.DualStack
	nodes := cluster(t, s, VXLAN, VXLAN, HostGW)
	testnet.Meet(t, nodes...)
	nodes[0].stop()
	nodes[0].Sh(t, "ip route add 10.99.0.0/16 via 192.0.0.2 proto static")
	testnet.Inside(t, nodes[0].NS, func() error {
		return errors.Join(Remove(nodes[0].cfg), Remove(nodes[0].cfg))
	})
	if got := routesOf(t, nodes[0].NS); got != "" {
		t.Errorf("left:\n%s", got)
	}
	if got := nodes[0].Sh(t, "ip -o link"); strings.Contains(got, "brink") {
		t.Errorf("links left:\n%s", got)
	}
	if got := nodes[0].Sh(t, "ip route show 10.99.0.0/16"); got == "" {
		t.Error("somebody's route is gone")
	}
}
