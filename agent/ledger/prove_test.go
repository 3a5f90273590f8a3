package ledger

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"

	"brink/internal/layout"
	"brink/internal/testtree"
)

const (
	uidOurs   = "11111111-2222-3333-4444-555555555555"
	uidOthers = "99999999-2222-3333-4444-555555555555"
)

// TestPodsOfOlder: an older brink's directory, which it had for itself, to which another
// kubelet has come since. A pod is ours when containerd has known it.
func TestPodsOfOlder(t *testing.T) {
	t.Parallel()
	pods := map[string]string{"agent/kubelet/pods/" + uidOurs + "/": "", "agent/kubelet/pods/" + uidOthers + "/": ""}
	for name, tt := range map[string]struct {
		database string
		want     []string
	}{
		"known": {"\x00label" + uidOurs + "\x00", []string{uidOurs}},
		// Over the border of what is read at a time.
		"far in": {string(bytes.Repeat([]byte{1}, 1<<20-10)) + uidOurs, []string{uidOurs}},
		"no pod": {"\x00" + uidOurs[1:], nil},
		"empty":  {"", nil},
	} {
		dir := testtree.Make(t, pods)
		l := layout.New(dir)
		testtree.Fill(t, dir, map[string]string{"agent/containerd/io.containerd.metadata.v1.bolt/meta.db": tt.database})
		if got := podsOfOlder(l); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
	if got := podsOfOlder(layout.New(testtree.Make(t, pods))); len(got) > 0 {
		t.Errorf("without a database: got %q", got)
	}
}

// TestNoListIsNoPods: a list that an uninstall has removed before it was cut off does
// not make all pods ours.
func TestNoListIsNoPods(t *testing.T) {
	t.Parallel()
	dir := testtree.Make(t, map[string]string{"made": "", "agent/kubelet/pods/" + uidOthers + "/": ""})
	if got := ReadPods(layout.New(dir)); len(got) > 0 {
		t.Errorf("without a list the pods are %v", got)
	}
}

// TestForeignPods: a kubelet's directory that others know too is only one's own where no
// other kubelet has pods before the first start.
func TestForeignPods(t *testing.T) {
	t.Parallel()
	dir := testtree.Make(t, map[string]string{"agent/kubelet/pods/" + uidOthers + "/": ""})
	l := layout.New(dir)
	if got := ForeignPods(l); len(got) > 0 {
		t.Errorf("in the data directory: %q", got)
	}
	if got := foreignPodsIn(filepath.Join(dir, "agent/kubelet"), filepath.Join(dir, "made")); !slices.Equal(got, []string{uidOthers}) {
		t.Errorf("before the first start: %q", got)
	}
	testtree.Fill(t, dir, map[string]string{"made": ""})
	if got := foreignPodsIn(filepath.Join(dir, "agent/kubelet"), l.Made()); len(got) > 0 {
		t.Errorf("of a node that has run: %q", got)
	}
}
