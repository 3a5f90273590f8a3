package uninstall

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/agent/ledger"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/internal/testtree"
)

// TestCopyLeavesTheOriginal: a copy of a data directory has the list of what its
// original has made on the machine, and has made none of it.
func TestCopyLeavesTheOriginal(t *testing.T) {
	t.Parallel()
	original := claimed(t, nil)
	testtree.Fill(t, original.Data(), nodeFiles)
	outside := filepath.Join(t.TempDir(), "kubeconfig")
	if err := ledger.RecordFile(original, outside); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside, []byte("original's"), 0o600); err != nil {
		t.Fatal(err)
	}
	copied := layout.New(filepath.Join(t.TempDir(), "copy"))
	if err := os.CopyFS(copied.Data(), os.DirFS(original.Data())); err != nil {
		t.Fatal(err)
	}
	var said []string
	err := Run(t.Context(), Config{
		Layout: copied, RemovePrograms: func(string) error { return nil },
		Removed: func(what string) { said = append(said, "removed "+what) }, Kept: func(what string) { said = append(said, "kept "+what) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("the original's file is gone: %v; said %q", err, said)
	}
	if _, err := os.Stat(copied.Mark()); err == nil || !datadir.IsMarked(original) {
		t.Errorf("the copy is there: %t, the original is not", err == nil)
	}
	if !slices.ContainsFunc(said, func(line string) bool { return strings.Contains(line, "it is a copy of "+original.Data()) }) {
		t.Errorf("said %q", said)
	}
}
