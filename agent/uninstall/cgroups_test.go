package uninstall

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/agent/ledger"
	"brink/internal/testtree"
)

// stubSystemctl returns the file to which systemctl's arguments go.
func stubSystemctl(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\n", calls)
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return calls
}

// TestOthersInOurSlice: the node made kubepods.slice, then another kubelet came
// to use it. On version 1 the same unit has a group in several hierarchies.
func TestOthersInOurSlice(t *testing.T) {
	calls := stubSystemctl(t)
	root := testtree.Make(t, map[string]string{
		"a/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cgroup.procs": "4711\n",
		"a/kubepods.slice/kubepods-burstable.slice/":                                             "",
		"b/kubepods.slice/kubepods-besteffort.slice/":                                            "",
		"a/edge.slice/edge-kubepods.slice/":                                                      "",
	})
	u, said := testRun(t, nil)
	for _, dir := range []string{"a/kubepods.slice", "b/kubepods.slice", "a/edge.slice", "a/edge.slice/edge-kubepods.slice", "a/never-came"} {
		u.entries = append(u.entries, ledger.Entry{Kind: ledger.Cgroup, Path: filepath.Join(root, dir)})
	}
	u.removeCgroups(t.Context())
	if len(u.errs) > 0 {
		t.Errorf("errors %v: uninstall could never finish", u.errs)
	}
	for dir, want := range map[string]bool{
		"a/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice": true,
		"a/kubepods.slice/kubepods-burstable.slice":                                 true,
		"a/edge.slice": false,
	} {
		if _, err := os.Stat(filepath.Join(root, dir)); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", dir, err == nil, want)
		}
	}
	stopped, _ := os.ReadFile(calls)
	if got := string(stopped); got != "stop -- edge-kubepods.slice edge.slice\n" {
		t.Errorf("systemctl was called with %q", got)
	}
	kept := slices.ContainsFunc(*said, func(line string) bool {
		return strings.HasPrefix(line, "kept cgroup "+root+"/a/kubepods.slice") && strings.Contains(line, "4711")
	})
	if !kept {
		t.Errorf("said %q", *said)
	}
}

// TestGroupThatStays is retried and told: it is a pod's of this node, or one
// made for it, and nobody else is known to use it.
func TestGroupThatStays(t *testing.T) {
	calls := stubSystemctl(t)
	root := testtree.Make(t, map[string]string{"x.slice/memory.current": "0\n"})
	u, _ := testRun(t, nil)
	u.entries = []ledger.Entry{{Kind: ledger.Cgroup, Path: filepath.Join(root, "x.slice")}}
	u.removeCgroups(t.Context())
	if len(u.errs) != 1 || !strings.Contains(u.errs[0].Error(), "x.slice") {
		t.Errorf("errors %v", u.errs)
	}
	if _, err := os.Stat(calls); err == nil {
		t.Error("the unit of a group that stays was stopped")
	}
}
