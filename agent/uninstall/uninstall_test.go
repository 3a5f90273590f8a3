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

func TestParseMounts(t *testing.T) {
	t.Parallel()
	const mountinfo = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
31 22 0:26 / /data/agent/kubelet/pods/u/volumes/a\040b rw shared:9 master:1 - tmpfs tmpfs rw
40 22 0:4 net:[4026532300] /run/brink/netns/cni\134x rw - nsfs nsfs rw
short line
`
	want := []string{"/", "/data/agent/kubelet/pods/u/volumes/a b", `/run/brink/netns/cni\x`}
	if got := pointsOf(parseMountinfo(mountinfo)); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

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

func TestParseParent(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]int{
		"12 (sleep) S 7 12 12 0":      7,
		"12 (a) b) (c) R 9 12 12 0":   9,
		"12 (defunct) Z 7 12 12 0":    -1,
		"12 (half":                    -1,
		"":                            -1,
		"12 (x) S not-a-number 1 2 3": -1,
	} {
		if got := parseParent(stat); got != want {
			t.Errorf("%q: got %d, want %d", stat, got, want)
		}
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
