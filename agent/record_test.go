package agent

import (
	"os"
	"path/filepath"
	"testing"

	"brink/agent/ledger"
	"brink/internal/layout"
)

// TestAFullDiskDoesNotKeepPodsFromRunning: where nothing can be written down, the
// node goes on.
func TestAFullDiskDoesNotKeepPodsFromRunning(t *testing.T) {
	t.Parallel()
	l := layout.At(t.TempDir(), t.TempDir())
	for _, path := range []string{l.Made(), l.Pods(), l.SelfBinds()} {
		if err := os.MkdirAll(filepath.Join(path, "in-the-way"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	a := &Agent{cfg: Config{Layout: l}, pods: ledger.NewPods(l), ledgerLog: newLedgerLog()}
	a.record([]ledger.Entry{{Kind: ledger.Cgroup, Path: "/sys/fs/cgroup/x"}})
	a.recordPod("uid-1")
	if err := os.RemoveAll(l.Pods()); err != nil {
		t.Fatal(err)
	}
	a.recordPod("uid-2")
	if pods := ledger.ReadPods(l); !pods["uid-1"] || !pods["uid-2"] {
		t.Errorf("with room again: got %v", pods)
	}
}
