package uninstall

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"brink/internal/testneed"
	"brink/internal/testtree"
)

func TestMountsBelow(t *testing.T) {
	t.Parallel()
	points := []string{"/", "/run", "/run/brink", "/run/brink/a", "/run/brink/a/b", "/run/brink/a", "/run/brink2/x", "/k/pods/1/vol/v", "/k/pods/1"}
	got := mountsBelow(points, []string{"/run/brink", "/k/pods"})
	// A root itself is the user's, and /run/brink2 another node's.
	want := []string{"/k/pods/1/vol/v", "/run/brink/a/b", "/k/pods/1", "/run/brink/a", "/run/brink/a"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseBundle(t *testing.T) {
	t.Parallel()
	const uid = "157613c4-b503-46c3-a9a7-650cc0cb22cc"
	annotated := func(cgroup, kind string) string {
		return `{"annotations":{"io.kubernetes.cri.sandbox-uid":"` + uid + `","io.kubernetes.cri.container-type":"` + kind + `"},"linux":{"cgroupsPath":"` + cgroup + `"}}`
	}
	for _, c := range []struct{ name, config, cgroup, pod string }{
		{"cgroupfs", annotated("/n1/kubepods/burstable/pod"+uid+"/c1", "container"),
			"/n1/kubepods/burstable/pod" + uid + "/c1", "/n1/kubepods/burstable/pod" + uid},
		{"systemd", annotated("kubepods-besteffort-pod157613c4_b503_46c3_a9a7_650cc0cb22cc.slice:cri-containerd:c1", "container"),
			"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod157613c4_b503_46c3_a9a7_650cc0cb22cc.slice/cri-containerd-c1.scope",
			"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod157613c4_b503_46c3_a9a7_650cc0cb22cc.slice"},
		{"ctr", `{"linux":{"cgroupsPath":"/default/c1"}}`, "/default/c1", "/default/c1"},
		{"a parent that is not the pod's", annotated("/system.slice/c1", "container"), "/system.slice/c1", "/system.slice/c1"},
	} {
		b, ok := parseBundle([]byte(c.config))
		if !ok || b.cgroup != c.cgroup || b.podCgroup() != c.pod || b.sandbox {
			t.Errorf("%s: got %+v of pod %s, want %s of %s", c.name, b, b.podCgroup(), c.cgroup, c.pod)
		}
	}
	if b, ok := parseBundle([]byte(annotated("/x/pod"+uid+"/c", "sandbox"))); !ok || !b.sandbox {
		t.Errorf("sandbox: got %+v", b)
	}
	for _, bad := range []string{"", "{", "{}", `{"linux":{"cgroupsPath":""}}`} {
		if b, ok := parseBundle([]byte(bad)); ok {
			t.Errorf("%q: got %+v", bad, b)
		}
	}
}

func TestUsesState(t *testing.T) {
	t.Parallel()
	cached := func(config string) []byte {
		out, _ := json.Marshal(map[string]any{"kind": "cniCacheV1", "config": []byte(config)})
		return out
	}
	for _, c := range []struct {
		name   string
		result []byte
		want   bool
	}{
		{"list", cached(`{"name":"brink","plugins":[{"type":"bridge","ipam":{"type":"host-local","dataDir":"/d/agent/cni/state"}},{"type":"portmap"}]}`), true},
		{"single plugin", cached(`{"name":"brink","ipam":{"dataDir":"/d/agent/cni/state"}}`), true},
		{"another node of the same network name", cached(`{"name":"brink","plugins":[{"ipam":{"dataDir":"/e/agent/cni/state"}}]}`), false},
		{"another network", cached(`{"name":"cbr0","plugins":[{"type":"flannel"}]}`), false},
		{"no json", []byte("x"), false},
		{"no configuration", []byte("{}"), false},
	} {
		if got := usesState(c.result, "/d/agent/cni/state"); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

func TestIsOnlyFor(t *testing.T) {
	t.Parallel()
	config := func(cas ...string) *clientcmdapi.Config {
		out := clientcmdapi.NewConfig()
		for i, ca := range cas {
			out.Clusters[string(rune('a'+i))] = &clientcmdapi.Cluster{CertificateAuthorityData: []byte(ca)}
		}
		return out
	}
	for _, c := range []struct {
		name   string
		config *clientcmdapi.Config
		want   bool
	}{
		{"ours", config("ours"), true},
		{"another cluster's", config("other"), false},
		{"merged with another cluster", config("ours", "other"), false},
		{"empty", config(), false},
	} {
		if got := isOnlyFor(c.config, []byte("ours")); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

func TestTrees(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	testtree.Fill(t, dir, map[string]string{"a/b/c/procs": "", "a/d/procs": "", "e/procs": ""})
	got := trees([]string{filepath.Join(dir, "a/b"), filepath.Join(dir, "a"), filepath.Join(dir, "none")})
	var names []string
	for _, path := range got {
		name, _ := filepath.Rel(dir, path)
		names = append(names, name)
	}
	if want := []string{"a/d", "a/b/c", "a/b", "a"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

// TestParentOf: a process that has ended and waits to be reaped is none any more, and a
// name may contain anything.
func TestParentOf(t *testing.T) {
	t.Parallel()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a) Z (b")
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if got := parentOf(cmd.Process.Pid); got != os.Getpid() {
		t.Errorf("the parent is %d, want %d", got, os.Getpid())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !waitFor(t.Context(), 10*time.Second, func() bool { return parentOf(cmd.Process.Pid) == -1 }) {
		t.Error("a process that was killed and not reaped counts")
	}
	_ = cmd.Wait()
	if got := parentOf(cmd.Process.Pid); got != -1 {
		t.Errorf("the parent of one that is gone is %d", got)
	}
}

func TestDescendants(t *testing.T) {
	t.Parallel()
	parents := map[int]int{1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20, 30: 1}
	got := slices.Sorted(maps.Keys(descendants(parents, []int{10, 20})))
	if want := []int{11, 12, 21}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A process is a node's by the program file it runs, not by its name.
func TestPayloadProcesses(t *testing.T) {
	t.Parallel()
	u, _ := testRun(t, map[string]string{"made": ""})
	sleep := testneed.Program(t, "sleep")
	program, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(u.Layout.Payload(), "abc", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(bin, "sleep")
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		t.Fatal(err)
	}
	ours, stranger := startProcess(t, copied), startProcess(t, sleep)
	wait := func(want ...int) {
		t.Helper()
		if !waitFor(context.Background(), 10*time.Second, func() bool { return slices.Equal(payloadProcesses(u.Layout), want) }) {
			t.Fatalf("got %v, want %v; the stranger is %d", payloadProcesses(u.Layout), want, stranger)
		}
	}
	wait(ours)
	if err := os.Remove(copied); err != nil {
		t.Fatal(err)
	}
	wait(ours) // of a payload that is gone
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		t.Fatal(err)
	}
	wait(ours)
	if err := u.removePods(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait()
	if parentOf(stranger) < 0 {
		t.Error("the stranger was killed")
	}
}

func startProcess(t *testing.T, path string) int {
	t.Helper()
	cmd := exec.Command(path, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}
