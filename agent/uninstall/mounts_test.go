package uninstall

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"brink/agent/ledger"
	"brink/internal/atomicfile"
	"brink/internal/testneed"
	"brink/internal/testtree"
)

// mountTmp mounts a file system until the test ends.
func mountTmp(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// timesMounted counts the mounts at a place.
func timesMounted(t *testing.T, dir string) int {
	t.Helper()
	table, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	return len(table)
}

// TestMountsOfOthers: what somebody has mounted in a pod's directory, but for its
// volumes, stays mounted and is named; what is mounted in a volume goes with it and is
// named; what the kubelet mounts goes without a word of each.
func TestMountsOfOthers(t *testing.T) {
	t.Parallel()
	testneed.Root(t)
	for _, keepData := range []bool{true, false} {
		u, said := testRun(t, nodeFiles)
		u.KeepData = keepData
		pod := filepath.Join(u.Layout.Kubelet(), "pods", "uid-1")
		volume := filepath.Join(pod, "volumes/kubernetes.io~empty-dir/cache")
		csi := filepath.Join(pod, "volumes/kubernetes.io~csi/pv/mount")
		subpath := filepath.Join(pod, "volume-subpaths/cache/main/0")
		mine, below := filepath.Join(pod, "mine"), filepath.Join(volume, "disk")
		for _, dir := range []string{volume, csi, subpath, mine, below} {
			mountTmp(t, dir)
		}
		testtree.Fill(t, mine, map[string]string{"precious": "data"})
		u.removeMounts()
		for dir, want := range map[string]int{volume: 0, csi: 0, subpath: 0, below: 0, mine: 1} {
			if got := timesMounted(t, dir); got != want {
				t.Errorf("%s is mounted %d times, want %d", dir, got, want)
			}
		}
		const in = "DIR/agent/kubelet/pods/uid-1/"
		slices.Sort(*said)
		want := []string{"kept " + in + "mine, which somebody else has mounted", "removed 3 mounts",
			"removed what was mounted in a pod's volume at " + in + "volumes/kubernetes.io~empty-dir/cache/disk"}
		if !slices.Equal(*said, want) || len(u.errs) > 0 {
			t.Errorf("said %q, want %q; errors %v", *said, want, u.errs)
		}
		u.removeOwn()
		if _, err := os.Stat(filepath.Join(mine, "precious")); err != nil {
			t.Error(err)
		}
		if isNamed := len(u.errs) == 1 && strings.Contains(u.errs[0].Error(), mine); isNamed == keepData {
			t.Errorf("with keep data %v: errors %v", keepData, u.errs)
		}
	}
}

// TestSelfBindOfTheUser: the kubelet's directory stays mounted on itself as often as it
// was before the kubelet came.
func TestSelfBindOfTheUser(t *testing.T) {
	t.Parallel()
	testneed.Root(t)
	for _, tt := range []struct {
		theirs, kubelets int
		recorded         bool
	}{{0, 1, true}, {1, 0, true}, {1, 1, true}, {0, 1, false}} {
		u, said := testRun(t, nodeFiles)
		dir := u.Layout.Kubelet()
		bind := func() {
			if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
		}
		for range tt.theirs {
			bind()
		}
		if !tt.recorded { // an older brink has run in this boot
			testtree.Fill(t, u.Layout.Run(), map[string]string{"containerd/": ""})
			bind()
			tt.kubelets--
		}
		for range 2 { // the second start finds the kubelet's bind
			if err := ledger.RecordSelfBinds(u.Layout); err != nil {
				t.Fatal(err)
			}
			for range tt.kubelets {
				bind()
			}
			tt.kubelets = 0
		}
		u.removeMounts()
		if got := timesMounted(t, dir); got != tt.theirs || len(u.errs) > 0 {
			t.Errorf("%+v: it is mounted %d times; errors %v", tt, got, u.errs)
		}
		if isNamed := strings.Contains(strings.Join(*said, "\n"), "kept DIR/agent/kubelet, which somebody else has mounted on itself"); isNamed != (tt.theirs > 0) {
			t.Errorf("%+v: said %q", tt, *said)
		}
	}
}

// TestMountInASelfBind: what somebody has mounted in the kubelet's directory keeps that
// mounted on itself, as detaching the one takes the other along; when it is gone, another
// attempt removes both.
func TestMountInASelfBind(t *testing.T) {
	t.Parallel()
	testneed.Root(t)
	u, said := testRun(t, nodeFiles)
	dir := u.Layout.Kubelet()
	if err := ledger.RecordSelfBinds(u.Layout); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		testneed.Missing(t, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	u.KeepData = true
	mine, inPod := filepath.Join(dir, "mine"), filepath.Join(dir, "pods", "uid-1", "mine")
	for _, point := range []string{mine, inPod} {
		mountTmp(t, point)
	}
	u.removeMounts()
	u.removeOwn()
	for _, point := range []string{mine, inPod, dir} {
		if got := timesMounted(t, point); got != 1 {
			t.Errorf("%s is mounted %d times", point, got)
		}
	}
	text := strings.Join(*said, "\n")
	for _, part := range []string{"kept DIR/agent/kubelet/mine, which somebody", "kept DIR/agent/kubelet/pods/uid-1/mine, which somebody", "kept DIR/agent/kubelet, mounted on itself: "} {
		if strings.Count(text, part) != 1 {
			t.Errorf("%q is not said once in\n%s", part, text)
		}
	}
	for _, point := range []string{mine, inPod} {
		if err := unix.Unmount(point, 0); err != nil {
			t.Fatal(err)
		}
	}
	again, _ := runOn(t, u.Layout)
	again.removeMounts()
	again.removeOwn()
	if got := timesMounted(t, dir); got != 0 || len(again.errs) > 0 {
		t.Errorf("after that it is mounted %d times; errors %v", got, again.errs)
	}
	if _, err := os.Lstat(u.Layout.SelfBinds()); err == nil {
		t.Error("the record of mounts stays")
	}
}

// TestUsersSelfBindsOfAnOlderBrink is 0, as is what cannot be read.
func TestUsersSelfBindsOfAnOlderBrink(t *testing.T) {
	t.Parallel()
	u, _ := testRun(t, nil)
	if got := ledger.UsersSelfBinds(u.Layout); got != 0 {
		t.Errorf("without a file: %d", got)
	}
	if err := atomicfile.Keep(u.Layout.SelfBinds(), []byte("\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ledger.UsersSelfBinds(u.Layout); got != 0 {
		t.Errorf("with a damaged one: %d", got)
	}
}
