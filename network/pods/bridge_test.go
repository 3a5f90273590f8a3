package pods

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"brink/network/testnet"
)

func dualStack(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		ClusterCIDRs: testnet.DualStack.ClusterCIDRs(),
		NodeCIDRs:    testnet.DualStack.NodeCIDRs(3),
		ConfDir:      filepath.Join(dir, "net.d"),
		StateDir:     filepath.Join(dir, "state"),
		CacheDir:     filepath.Join(dir, "cache"),
		Bridge:       DefaultBridge,
	}
}

// TestNoBridgeWithoutPods: until the first pod there is nothing to repair.
func TestNoBridgeWithoutPods(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	cfg := dualStack(t)
	p, err := Open(t.Context(), cfg, func() {}, slog.Default())
	testnet.Must(t, err)
	testnet.Must(t, p.Reconcile(1450))
	testnet.Must(t, os.MkdirAll(cfg.leases(), 0o755))
	testnet.Must(t, os.WriteFile(filepath.Join(cfg.leases(), "lock"), nil, 0o644))
	testnet.Must(t, os.WriteFile(filepath.Join(cfg.leases(), "last_reserved_ip.0"), []byte("10.42.3.10"), 0o644))
	testnet.Must(t, p.Reconcile(1450))
	if got := testnet.LinkNames(t); got != "lo" {
		t.Errorf("links are %s", got)
	}
}

func TestForeignLinkOfTheBridgesName(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	cfg := dualStack(t)
	testnet.Must(t, os.MkdirAll(cfg.leases(), 0o755))
	testnet.Must(t, os.WriteFile(filepath.Join(cfg.leases(), "10.42.3.10"), []byte("id\r\neth0"), 0o644))
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "brink0"
	testnet.Must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	p, err := Open(t.Context(), cfg, func() {}, slog.Default())
	testnet.Must(t, err)
	if err := p.Reconcile(1450); err == nil || !strings.Contains(err.Error(), "there is a vxlan of this name: remove or rename it") {
		t.Errorf("got %v", err)
	}
}
