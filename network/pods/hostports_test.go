package pods

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/network/testnet"
)

// ofNode is the configuration of a node whose directories are the test's.
func ofNode(t *testing.T, n *testnet.Node) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		ClusterCIDRs: n.Stacks.ClusterCIDRs(), NodeCIDRs: n.Stacks.NodeCIDRs(n.Number),
		ConfDir: filepath.Join(dir, "net.d"), StateDir: filepath.Join(dir, "state"), CacheDir: filepath.Join(dir, "cache"),
		Bridge: DefaultBridge,
	}
}

// ipv4Node is a node with one pod, and its configuration.
func ipv4Node(t *testing.T) (*testnet.Node, Config) {
	t.Helper()
	testnet.EnterSegment(t)
	n := testnet.NewNode(t, testnet.AllStacks["IPv4"], 0, 1)
	return n, ofNode(t, n)
}

func hostPortsOf(cfg Config) HostPorts {
	return HostPorts{cfg: cfg, wake: func() {}, log: slog.Default()}
}

// wantOneRule: the port that testnet's GivePorts gives one pod has its rule, once.
func wantOneRule(t *testing.T) {
	t.Helper()
	if got := testnet.NFT(t, "list ruleset"); strings.Count(got, "dport 80 dnat") != 1 {
		t.Errorf("it has\n%s", got)
	}
}

// TestHostPortsDeletedDuringACheck: a table that goes while another check is under way
// is missed by nobody.
func TestHostPortsDeletedDuringACheck(t *testing.T) {
	t.Parallel()
	n, cfg := ipv4Node(t)
	n.GivePorts(t, cfg.StateDir, cfg.CacheDir, "one")
	testnet.Inside(t, n.NS, func() error {
		h := hostPortsOf(cfg)
		testnet.Must(t, h.Reconcile(t.Context()))
		for _, wrote := range []bool{true, false} { // with and without a repair to check
			if !wrote {
				testnet.Must(t, h.Reconcile(t.Context()))
			}
			before, err := hostPortTables()
			testnet.Must(t, err)
			testnet.NFT(t, "delete table ip cni_hostport") // just after the tables were listed
			_, err = h.restore(t.Context(), before)
			testnet.Must(t, err)
			for range 2 {
				testnet.Must(t, h.Reconcile(t.Context()))
			}
			wantOneRule(t)
		}
		return nil
	})
}

// TestFirstHostPortsAreDeleted: the first pod with a port comes and somebody flushes the
// rules before any check has seen the table.
func TestFirstHostPortsAreDeleted(t *testing.T) {
	t.Parallel()
	n, cfg := ipv4Node(t)
	var h HostPorts
	testnet.Inside(t, n.NS, func() error {
		h = hostPortsOf(cfg)
		testnet.Must(t, h.Reconcile(t.Context()))
		return nil
	})
	n.GivePorts(t, cfg.StateDir, cfg.CacheDir, "one")
	testnet.Inside(t, n.NS, func() error {
		testnet.NFT(t, "flush ruleset")
		testnet.Must(t, h.Reconcile(t.Context()))
		wantOneRule(t)
		return nil
	})
}

// TestHostPortsOfGoingPods: what is written for a pod that is just being removed goes
// again, and a pod that did not survive a reboot gets nothing.
func TestHostPortsOfGoingPods(t *testing.T) {
	t.Parallel()
	n, cfg := ipv4Node(t)
	n.GivePorts(t, cfg.StateDir, cfg.CacheDir, "one")
	testnet.Inside(t, n.NS, func() error {
		h := hostPortsOf(cfg)
		testnet.Must(t, h.Reconcile(t.Context()))
		if got := testnet.NFT(t, "list ruleset"); !strings.Contains(got, `comment "one"`) {
			t.Errorf("no rule:\n%s", got)
		}
		testnet.Must(t, os.RemoveAll(cfg.leases()))
		testnet.Must(t, h.Reconcile(t.Context()))
		if got := testnet.NFT(t, "list ruleset"); strings.Contains(got, `comment "one"`) {
			t.Errorf("left:\n%s", got)
		}
		return nil
	})
	n.GivePorts(t, cfg.StateDir, cfg.CacheDir, "two")
	results := filepath.Join(cfg.CacheDir, "results", "brink-two-eth0")
	text, err := os.ReadFile(results)
	testnet.Must(t, err)
	testnet.Must(t, os.WriteFile(results, []byte(strings.ReplaceAll(string(text), `"sandbox": "`, `"sandbox": "/gone`)), 0o600))
	testnet.Inside(t, n.NS, func() error {
		testnet.NFT(t, "flush ruleset")
		h := hostPortsOf(cfg)
		testnet.Must(t, h.Reconcile(t.Context()))
		if got := testnet.NFT(t, "list ruleset"); got != "" {
			t.Errorf("of a pod without a network namespace there is\n%s", got)
		}
		return nil
	})
}
