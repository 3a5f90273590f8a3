package uninstall

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"brink/agent/ledger"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/internal/testneed"
	"brink/internal/testtree"
	"brink/runtime/payload"
)

// claimed is the layout of a new directory that a start has made brink's, after
// some files were there before.
func claimed(t *testing.T, files map[string]string) layout.Layout {
	t.Helper()
	dir := filepath.Join(datadir.Resolve(t.TempDir()), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	testtree.Fill(t, dir, files)
	// The run directory is a tree of the test's own too.
	l := layout.At(dir, filepath.Join(filepath.Dir(dir), "run"))
	if err := datadir.Claim(l); err != nil {
		t.Fatal(err)
	}
	return l
}

// testRun is a run on a claimed directory that holds the files, with what it said.
func testRun(t *testing.T, files map[string]string) (u *run, said *[]string) {
	t.Helper()
	l := claimed(t, nil)
	testtree.Fill(t, l.Data(), files)
	u, said = runOn(t, l)
	return u, said
}

func runOn(t *testing.T, l layout.Layout) (u *run, said *[]string) {
	t.Helper()
	said = &[]string{}
	say := func(verb string) func(string) {
		return func(what string) { *said = append(*said, verb+" "+strings.ReplaceAll(what, l.Data(), "DIR")) }
	}
	entries, err := ledger.Read(l.Made())
	if err != nil {
		t.Fatal(err)
	}
	return newRun(Config{Layout: l, RemovePrograms: payload.Remove, Removed: say("removed"), Kept: say("kept")}, entries), said
}

// nodeFiles are those of a node in its data directory.
var nodeFiles = map[string]string{
	"lock": "1\n", "made": "dir /x\n", "server/db/state.db": "", "server/db/state.db-wal": "", "server/tls/server-ca.crt": "", "server/token": "",
	"agent/pki/kubelet-client-2026.pem": "", "agent/pki/kubelet-client-current.pem": "->kubelet-client-2026.pem", "agent/pods": "uid-1\nuid-2\n",
	"agent/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/etc/passwd": "",
	"agent/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/etc/mtab":   "->/proc/mounts",
	"agent/cni/state/brink/10.42.0.2":                                                   "", "agent/cni/net.d/10-brink.conflist": "", "agent/images/": "", "agent/pod-manifests/": "",
	"agent/kubelet/pods/uid-1/volumes/kubernetes.io~empty-dir/cache/x": "", "agent/kubelet/cpu_manager_state": "", "agent/kubelet/plugins/": "",
	"agent/pod-logs/default_p_uid-1/c/0.log": "", "agent/imported-images.json": "", "server/volumeplugins/": "", "data/": "",
}

func left(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			out = append(out, name)
		}
		return nil
	})
	return out
}

func TestRemoveOwn(t *testing.T) {
	t.Parallel()
	u, said := testRun(t, nodeFiles)
	testtree.Fill(t, u.Layout.Run(), map[string]string{"status.sock": "", "containerd/io.containerd.grpc.v1.cri/x": "", "datastore/leases.copy": ""})
	u.removeOwn()
	if _, err := os.Lstat(u.Layout.Data()); err == nil || len(u.errs) > 0 || !slices.Equal(*said, []string{"removed " + u.Layout.Run(), "removed DIR"}) {
		t.Errorf("left %v; errors %v; said %v", left(t, u.Layout.Data()), u.errs, *said)
	}
}

func TestRemoveOwnLeavesTheUsersFiles(t *testing.T) {
	t.Parallel()
	photos := testtree.Make(t, map[string]string{"1.jpg": ""})
	theirs := map[string]string{
		"notes.txt": "", "agent/images/a.tar": "", "agent/recordings/1.wav": "", "server/db/backup.db": "", "server/tls/client-bob.key": "",
		"agent/containerd/photo.jpg": "", "agent/kubelet/config.yaml": "", "agent/kubelet/pods/uid-9/volumes/x": "", "agent/pod-logs/default_q_uid-9/c/0.log": "",
		"data/" + strings.Repeat("ab", 32) + "/chunk": "", "agent/link": "->" + photos, "agent/kubelet/plugins/driver/csi.sock": "",
	}
	u, said := testRun(t, nodeFiles)
	testtree.Fill(t, u.Layout.Data(), theirs)
	testtree.Fill(t, u.Layout.Run(), map[string]string{"status.sock": "", "mine": ""})
	u.removeOwn()
	var want []string
	for name := range theirs {
		want = append(want, name)
	}
	slices.Sort(want)
	got := left(t, u.Layout.Data())
	slices.Sort(got)
	if !slices.Equal(got, want) || len(left(t, photos)) != 1 || len(u.errs) > 0 {
		t.Errorf("left %q, want %q; errors %v", got, want, u.errs)
	}
	if left := left(t, u.Layout.Run()); !slices.Equal(left, []string{"mine"}) {
		t.Errorf("of the run directory %q", left)
	}
	text := strings.Join(*said, "\n")
	for _, named := range []string{"notes.txt", "agent/images/a.tar", "agent/recordings", "server/db/backup.db", "agent/kubelet/pods/uid-9", "agent/link"} {
		if !strings.Contains(text, "kept DIR/"+named+", which is not brink's") {
			t.Errorf("%s is not named in\n%s", named, text)
		}
	}
}

func TestRemoveOwnLeavesWhatPreexisted(t *testing.T) {
	t.Parallel()
	l := claimed(t, map[string]string{"server/tls/server-ca.crt": "mine", "server/tls/server-ca.key": "mine"})
	testtree.Fill(t, l.Data(), map[string]string{"server/tls/client-ca.key": "", "server/db/state.db": ""})
	u, _ := runOn(t, l)
	u.removeOwn()
	if got := left(t, l.Data()); !slices.Equal(got, []string{"server/tls/server-ca.crt", "server/tls/server-ca.key"}) {
		t.Errorf("left %q", got)
	}
	if err := datadir.Check(l); err != nil {
		t.Errorf("the next start: %v", err)
	}
}

func TestRemoveOwnAfterAFailure(t *testing.T) {
	t.Parallel()
	u, _ := testRun(t, nodeFiles)
	u.errs = []error{os.ErrInvalid}
	u.removeOwn()
	if got := left(t, u.Layout.Data()); !slices.Equal(got, []string{"agent/pods", "brink.mark", "lock", "made"}) || CheckDataDir(u.Layout) != nil {
		t.Errorf("mark, lock and record are needed for the next try, left %v", got)
	}
}

func TestRemoveOwnKeepsData(t *testing.T) {
	t.Parallel()
	u, _ := testRun(t, nodeFiles)
	before := left(t, u.Layout.Data())
	u.KeepData = true
	u.removeOwn()
	if got := left(t, u.Layout.Data()); !slices.Equal(got, before) {
		t.Errorf("left %v", got)
	}
}

// TestStateBesideAnotherKubelet: in a directory that another kubelet uses too, what this
// node's has made goes unless the other's pods are in it, and what stays is not called
// somebody else's.
func TestStateBesideAnotherKubelet(t *testing.T) {
	t.Parallel()
	const own, other = "0b0e7a52-7a8c-4a4e-9a34-000000000001", "0b0e7a52-7a8c-4a4e-9a34-000000000002"
	l := claimed(t, nil)
	testtree.Fill(t, l.Data(), map[string]string{
		"agent/pods":                           own + "\n",
		"agent/kubelet/cpu_manager_state":      `{"policyName":"none","defaultCpuSet":"","checksum":1353318690}`,
		"agent/kubelet/allocated_pods_state":   `{"data":"{\"entries\":{\"` + own + `\":{}}}","checksum":1}`,
		"agent/kubelet/memory_manager_state":   `{"entries":{"` + own + `":{},"` + other + `":{}},"checksum":1}`,
		"agent/kubelet/dra_manager_state":      `{"checksum":1}`,
		"agent/kubelet/image_manager/pulled/x": "{}",
		"agent/kubelet/pods/" + other + "/x":   "",
		"agent/kubelet/pods/" + own + "/x":     "",
	})
	for _, name := range []string{"cpu_manager_state", "allocated_pods_state", "memory_manager_state", "image_manager"} {
		if err := ledger.Record(l.Made(), ledger.Entry{Kind: ledger.KubeletFile, Path: filepath.Join(l.Kubelet(), name)}); err != nil {
			t.Fatal(err)
		}
	}
	u, said := runOn(t, l)
	u.sharesKubelet = true
	u.removeOwn()
	want := []string{"dra_manager_state", "image_manager/pulled/x", "memory_manager_state", "pods/" + other + "/x"}
	got := left(t, l.Kubelet())
	if slices.Sort(got); !slices.Equal(got, want) || len(u.errs) > 0 {
		t.Errorf("left %q, want %q; errors %v", got, want, u.errs)
	}
	slices.Sort(*said)
	const in, why = "kept DIR/agent/kubelet/", ", which another kubelet uses too"
	wantSaid := []string{in + "dra_manager_state" + why, in + "image_manager" + why, in + "memory_manager_state" + why, in + "pods/" + other + ", which is not brink's"}
	if len(*said) < 4 || !slices.Equal((*said)[:4], wantSaid) {
		t.Errorf("said %q, want %q", *said, wantSaid)
	}
}

// TestLinks: what was empty before brink came is emptied, anything else is named.
func TestLinks(t *testing.T) {
	t.Parallel()
	disk := datadir.Resolve(testtree.Make(t, map[string]string{"empty/lost+found/": "", "other/io.containerd.metadata.v1.bolt/meta.db": "theirs"}))
	l := claimed(t, map[string]string{"agent/containerd": "->" + disk + "/empty"})
	testtree.Fill(t, l.Data(), map[string]string{"agent/containerd/io.containerd.metadata.v1.bolt/meta.db": "", "agent/containerd/photo.jpg": "", "agent/cni": "->" + disk + "/other"})
	u, said := runOn(t, l)
	u.removeOwn()
	want := []string{"empty/photo.jpg", "other/io.containerd.metadata.v1.bolt/meta.db"}
	if got := left(t, disk); !slices.Equal(got, want) || len(u.errs) > 0 {
		t.Errorf("left %q, errors %v", got, u.errs)
	}
	if got := left(t, l.Data()); !slices.Equal(got, []string{"agent/cni", "agent/containerd"}) {
		t.Errorf("left %q", got)
	}
	text := strings.Join(*said, "\n")
	for _, part := range []string{
		"kept DIR/agent/cni, a link to " + disk + "/other: what brink has kept there stays, remove it by hand",
		"kept DIR/agent/containerd, a link to " + disk + "/empty\n", "kept " + disk + "/empty/photo.jpg, which is not brink's",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
}

func TestMountsAreNamed(t *testing.T) {
	t.Parallel()
	testneed.Root(t)
	u, _ := testRun(t, nodeFiles)
	dir := filepath.Join(u.Layout.CNIState(), "brink")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unmount(dir) })
	testtree.Fill(t, dir, map[string]string{"precious": "data"})
	u.removeOwn()
	if len(u.errs) != 1 || !strings.Contains(u.errs[0].Error(), dir) || !strings.Contains(u.errs[0].Error(), "unmount it and try again") {
		t.Errorf("got %v", u.errs)
	}
	if _, err := os.Stat(filepath.Join(dir, "precious")); err != nil {
		t.Error(err)
	}
	if err := unmount(dir); err != nil {
		t.Error(err)
	}
	again, _ := runOn(t, u.Layout)
	if again.removeOwn(); len(again.errs) > 0 || len(left(t, u.Layout.Data())) > 0 {
		t.Errorf("after it was unmounted: %v, left %q", again.errs, left(t, u.Layout.Data()))
	}
}

func TestCheckDataDir(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		files map[string]string
		fine  bool
	}{
		{"empty", nil, true},
		{"a node that refused to start", map[string]string{"lock": "12\n"}, true},
		{"what an older brink's uninstall left", map[string]string{"lock": "12\n", "made": "dir /x\n"}, true},
		{"what other nodes have too", map[string]string{"lock": "12\n", "agent/containerd/x": "", "agent/images/photo.jpg": "", "data/a": ""}, false},
		{"images alone", map[string]string{"agent/images/photo.jpg": ""}, true},
		{"a home", map[string]string{".bashrc": "", "data/photo.jpg": "", "server/x": ""}, false},
		{"a file called lock", map[string]string{"lock": "the combination is 1234"}, false},
		{"a number called otherwise", map[string]string{"pin": "1234"}, false},
		{"a list that is none", map[string]string{"made": "by hand\n"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := testtree.Make(t, c.files)
			if err := CheckDataDir(datadir.Locate(dir)); (err == nil) != c.fine {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, dir := range []string{"/", "/home", "/var/lib", "/root", "/srv"} {
		if CheckDataDir(datadir.Locate(dir)) == nil {
			t.Errorf("%s was accepted", dir)
		}
	}
	if err := CheckDataDir(claimed(t, nil)); err != nil {
		t.Error(err)
	}
}

// TestNotYetBrinks: before the first start, and after an uninstall that left what
// the user had put there, nothing is removed.
func TestNotYetBrinks(t *testing.T) {
	t.Parallel()
	files := map[string]string{"agent/images/a.tar": "", "server/tls/server-ca.crt": "", "server/tls/server-ca.key": "", "lock": "1\n"}
	l := layout.At(testtree.Make(t, files), filepath.Join(t.TempDir(), "run"))
	u, _ := runOn(t, l)
	u.removeOwn()
	want := []string{"agent/images/a.tar", "server/tls/server-ca.crt", "server/tls/server-ca.key"}
	if got := left(t, l.Data()); !slices.Equal(got, want) || len(u.errs) > 0 {
		t.Errorf("left %q, errors %v", got, u.errs)
	}
	if Installed(l) {
		t.Error("there is nothing to uninstall")
	}
}
