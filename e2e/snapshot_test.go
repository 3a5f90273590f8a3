package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/e2e/machine"
)

// brinkMust runs a brink command about the node.
func (n *node) brinkMust(t *testing.T, args ...string) machine.Result {
	t.Helper()
	r, err := n.brink(args...)
	if err != nil || r.Code != 0 {
		t.Fatalf("brink %s: %v %v", strings.Join(args, " "), err, r)
	}
	return r
}

// brinkRefuses wants the command to fail with one line that has the words.
func (n *node) brinkRefuses(t *testing.T, words string, args ...string) {
	t.Helper()
	r, err := n.brink(args...)
	if err != nil || r.Code == 0 || strings.Count(r.Stderr, "\n") != 1 || !strings.Contains(r.Stderr, words) {
		t.Errorf("brink %s: %v %v, want a line with %q", strings.Join(args, " "), err, r, words)
	}
}

// brink gives a command of two words the flag that says which node it is about.
func (n *node) brink(args ...string) (machine.Result, error) {
	at := 1
	if len(args) > 1 && args[0] == "snapshot" {
		at = 2
	}
	all := append(append([]string{}, args[:at]...), n.Flags("config")...)
	return n.Brink(append(all, args[at:]...)...)
}

func (n *node) hasConfigMap(t *testing.T, name string) bool {
	t.Helper()
	_, err := n.Client.CoreV1().ConfigMaps("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// TestSnapshot takes a state and puts it back: in the place of a later one, and on a card that
// has nothing. A client of before is told to read anew.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	mustCreateConfigMap(t, n, "before")
	file := filepath.Join(t.TempDir(), "state.tar.zst")
	n.brinkMust(t, "snapshot", "save", file)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v (%v)", info, err)
	}
	n.brinkRefuses(t, "is there already", "snapshot", "save", file)
	mustCreateConfigMap(t, n, "after")
	seen := n.revision(t)
	token, err := os.ReadFile(n.Inside(n.Layout().ServerToken()))
	if err != nil {
		t.Fatal(err)
	}
	n.brinkRefuses(t, "is in use by brink", "snapshot", "restore", file)
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.brinkRefuses(t, "give --replace", "snapshot", "restore", file)
	n.brinkMust(t, "snapshot", "restore", "--replace", file)
	n.startsFrom(t, seen)

	if err := n.UninstallOnly(); err != nil {
		t.Fatal(err)
	}
	n.brinkMust(t, "snapshot", "restore", file)
	n.startsFrom(t, seen)
	if now, err := os.ReadFile(n.Inside(n.Layout().ServerToken())); err != nil || string(now) != string(token) {
		t.Errorf("the token is another (%v)", err)
	}
}

// startsFrom starts the restored node: it has what the snapshot has, and nothing that was
// written after revision seen passes for known.
func (n *node) startsFrom(t *testing.T, seen int64) {
	t.Helper()
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if !n.hasConfigMap(t, "before") || n.hasConfigMap(t, "after") {
		t.Error("the state is not that of the snapshot")
	}
	if now := n.revision(t); now <= seen+1<<20 {
		t.Errorf("revision %d after %d was seen", now, seen)
	}
	w, err := n.Client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: strconv.FormatInt(seen, 10)})
	if err == nil {
		event := <-w.ResultChan()
		err = apierrors.FromObject(event.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch of before goes on: %v", err)
	}
}

func mustCreateConfigMap(t *testing.T, n *node, name string) {
	t.Helper()
	if err := n.create(name); err != nil {
		t.Fatal(err)
	}
}

// TestAnotherVersionKeepsTheState: whoever exchanged the binary, there is a snapshot of before
// the first start of another version, and the version before does not start on what is not
// its own.
func TestAnotherVersionKeepsTheState(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	mustCreateConfigMap(t, n, "before")
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	old, next := n.Program(), thisVersion(t)
	next.Minor++
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n.UseProgram(asVersion(t, dir, next))
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	mustCreateConfigMap(t, n, "after")
	var list []struct {
		Path, Before string
		State        struct{ Version string }
	}
	if err := json.Unmarshal([]byte(n.brinkMust(t, "snapshot", "list", "-o", "json").Stdout), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].Before != next.String() || list[0].State.Version != thisVersion(t).String() {
		t.Fatalf("snapshots: %+v", list)
	}
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.UseProgram(old)
	n.brinkRefuses(t, "may not be able to read", "server")
	n.brinkMust(t, "snapshot", "restore", "--replace", list[0].Path)
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	if !n.hasConfigMap(t, "before") || n.hasConfigMap(t, "after") {
		t.Error("the state is not that of before")
	}
}
