package agent

import (
	"slices"
	"strings"
	"testing"

	"brink/internal/host"
)

func TestReserve(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		memory     uint64 // MiB, as the kernel says it
		tasks      uint64
		withServer bool
		want       string
	}{
		{"a board of 512 MB", 460, 3600, true, "kube-reserved=cpu=100m,memory=160Mi,pid=360 system-reserved=cpu=50m,memory=24Mi pod-max-pids=900"},
		{"one that only joins", 460, 3600, false, "kube-reserved=cpu=50m,memory=112Mi,pid=360 system-reserved=cpu=50m,memory=24Mi pod-max-pids=900"},
		{"a board of 1 GB", 950, 7400, true, "kube-reserved=cpu=100m,memory=256Mi,pid=740 system-reserved=cpu=50m,memory=47Mi pod-max-pids=1850"},
		{"8 GB", 7800, 61000, true, "kube-reserved=cpu=100m,memory=256Mi,pid=2048 system-reserved=cpu=50m,memory=256Mi pod-max-pids=4096"},
		{"a 32-bit pid_max", 7800, 32768, false, "kube-reserved=cpu=50m,memory=112Mi,pid=2048 system-reserved=cpu=50m,memory=256Mi pod-max-pids=4096"},
		{"few tasks", 460, 300, true, "kube-reserved=cpu=100m,memory=160Mi,pid=150 system-reserved=cpu=50m,memory=24Mi pod-max-pids=256"},
		{"tasks that cannot be told", 7800, 0, true, "kube-reserved=cpu=100m,memory=256Mi system-reserved=cpu=50m,memory=256Mi"},
		{"memory that cannot be told", 0, 0, true, ""},
	} {
		f := host.Facts{Memory: tc.memory * mebi, Tasks: tc.tasks}
		r := Reserve(f, tc.withServer)
		if got := strings.Join(r.kubeletFlags(nil), " "); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
		if r.Kube+r.System > f.Memory/2 || r.Tasks > f.Tasks/2 {
			t.Errorf("%s: more than a half is kept from pods: %+v", tc.name, r)
		}
	}
}

func TestUserReserves(t *testing.T) {
	t.Parallel()
	r := Reserve(host.Facts{Memory: 8 << 30, Tasks: 32768}, true)
	for arg, want := range map[string]int{"max-pods=7": 3, "kube-reserved=memory=1Gi": 1, "--system_reserved=cpu=1": 1, "reserved-memory=0:memory=1Gi": 1} {
		if got := r.kubeletFlags([]string{arg}); len(got) != want || !slices.Contains(got, "pod-max-pids=4096") {
			t.Errorf("beside %s: %v", arg, got)
		}
		said := CheckReserved(host.Facts{Memory: 8 << 30, Tasks: 32768}, true, []string{arg}).Message
		if (want == 1) != strings.Contains(said, "--kubelet-arg") {
			t.Errorf("check says of %s: %s", arg, said)
		}
	}
}

func TestCheckReserved(t *testing.T) {
	t.Parallel()
	got := CheckReserved(host.Facts{Memory: 7800 * mebi, Tasks: 61000}, true, nil)
	if want := "pods may have 7288 of 7800 MiB memory together and 4096 processes each; brink keeps 256 MiB, the system 256"; got.Message != want || got.Result != host.OK {
		t.Errorf("got %+v, want %s", got, want)
	}
}
