package uninstall

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"brink/agent/ledger"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/internal/testneed"
	"brink/internal/testprocess"
	"brink/internal/testtree"
)

// treesEach is how many random trees are planted before a start, and as many after.
const treesEach = 200

// TestAnyUserTree: planted before the first start, the start refuses and changes
// nothing; planted after it, uninstalling keeps all of it, byte by byte, and of
// brink nothing stays. The node is a fake one, made by the code that makes real
// ones: marks, ledger and list of pods. It has the real paths, in a mount namespace
// of its own.
func TestAnyUserTree(t *testing.T) {
	if argument := testprocess.Argument(); argument != "" {
		first, err := strconv.ParseUint(argument, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Minute, func() { panic("uninstalling hangs") })
		for seed := first; seed < first+treesEach && !t.Failed(); seed++ {
			anyUserTree(t, seed)
		}
		return
	}
	t.Parallel()
	testneed.Root(t)
	seed := rand.Uint64N(1 << 32)
	cmd := testprocess.Again(t, fmt.Sprint(seed))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if _, isExit := err.(*exec.ExitError); err != nil && !isExit {
		t.Fatal(err)
	}
	if err != nil {
		t.Errorf("with random numbers from %d on: %v\n%s", seed, err, out)
	}
}

func anyUserTree(t *testing.T, seed uint64) {
	t.Helper()
	l := layout.New(layout.DefaultData)
	if seed%3 == 0 {
		l = layout.New("/var/lib/disk/brink-2")
	}
	for _, planted := range []string{"before", "after"} {
		freshMachine(t)
		u := &userTrees{T: t, random: rand.New(rand.NewPCG(seed, 0)), outside: "/run/user/1000", planted: map[string]bool{}}
		testtree.Fill(t, u.outside, map[string]string{"photos/1.jpg": "precious", "hard": "precious too"})
		testtree.Fill(t, "/var/lib/mine", map[string]string{"hard": "precious too"})
		if planted == "before" {
			plantedBefore(u, l)
		} else {
			plantedAfter(u, l)
		}
		if t.Failed() {
			t.Fatalf("planted %s, random number %d: %q", planted, seed, u.sorted())
		}
		for _, point := range u.mounts {
			_ = unix.Unmount(point, unix.MNT_DETACH)
		}
	}
}

// freshMachine replaces the directories that brink uses.
func freshMachine(t *testing.T) {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/var/lib", "/var/log", "/etc", "/run"} {
		if isTmp(dir) {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount("brink-test", dir, "tmpfs", 0, "size=16m"); err != nil {
			t.Fatal(err)
		}
	}
}

func isTmp(dir string) bool {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Contains(string(text), " "+dir+" rw,relatime - tmpfs brink-test ")
}

// plantedBefore: whatever is in the way, under brink's own names too, the start leaves
// it as it is.
func plantedBefore(u *userTrees, l layout.Layout) {
	u.Helper()
	testtree.Fill(u, l.Data(), map[string]string{"agent/images/": "", "server/": "", "data/": ""})
	mayPreexist := func(path string) bool {
		rel, _ := filepath.Rel(l.Data(), path)
		return layout.MayPreexist(rel)
	}
	u.plantNamed(l.Data(), brinksNames(), mayPreexist)
	u.plant([]string{l.Data()}, mayPreexist)
	if len(u.planted) == 0 {
		return
	}
	before := u.snapshot()
	err := datadir.Claim(l)
	if err == nil || strings.Contains(err.Error(), "\n") {
		u.Errorf("a start with %q there: got %v", u.sorted(), err)
	}
	u.mustHold(before)
	if datadir.IsMarked(l) {
		u.Error("it has got brink's mark")
	}
	if CheckDataDir(l) == nil {
		u.Error("uninstalling would begin")
	}
}

// plantedAfter: a whole node, then the user's, then uninstalling.
func plantedAfter(u *userTrees, l layout.Layout) {
	u.Helper()
	install(u, l)
	pods := map[string]bool{"uid-1": true}
	u.plant([]string{l.Data(), l.Run(), l.Kubelet(), l.PodLogs(), "/etc/brink", ledger.CNIResults, ledger.ContainerLogsDir, "/var/lib/kubelet"}, brinksOf(l, pods))
	before := u.snapshot()
	said := uninstallFiles(u, l)
	u.mustHold(before)
	u.mustBeNamed(said)
	u.mustBeThere(said)
	u.mustBeGone(l)
}

// install makes what a node has on disk.
func install(u *userTrees, l layout.Layout) {
	u.Helper()
	must := func(err error) {
		u.Helper()
		if err != nil {
			u.Fatal(err)
		}
	}
	must(os.MkdirAll(l.Data(), 0o755))
	must(datadir.Claim(l))
	must(datadir.MakeAgent(l))
	must(ledger.RecordNodePassword(l))
	must(ledger.RecordFile(l, "/etc/brink/ceiling"))
	must(ledger.Record(l.Made(), ledger.Shared(l)...))
	list := ledger.NewPods(l)
	must(list.Open())
	must(list.Add("uid-1"))
	files := map[string]string{}
	for name, content := range nodeFiles {
		below, isKubelet := strings.CutPrefix(name, "agent/kubelet/")
		logs, isLog := strings.CutPrefix(name, "agent/pod-logs/")
		switch {
		case name == "made" || name == "agent/pods":
		case isKubelet:
			files[filepath.Join(l.Kubelet(), below)+slash(name)] = content
		case isLog:
			files[filepath.Join(l.PodLogs(), logs)] = content
		default:
			files[filepath.Join(l.Data(), name)+slash(name)] = content
		}
	}
	files[l.NodePassword()], files["/etc/brink/ceiling"] = strings.Repeat("0", 64)+"\n", "12\n"
	files[filepath.Join(ledger.CNIResults, "brink-1-eth0")] = string(cached(l.CNIState()))
	files[filepath.Join(ledger.ContainerLogsDir, "p_default_c.log")] = "->" + filepath.Join(l.PodLogs(), "default_p_uid-1/c/0.log")
	files[filepath.Join(ledger.DevicePlugins, "kubelet_internal_checkpoint")] = ""
	files[l.StatusSocket()], files[filepath.Join(l.ContainerdState(), "io.containerd.grpc.v1.cri/x")] = "", ""
	testtree.Fill(u, "/", files)
	must(staleSocket(filepath.Join(ledger.DevicePlugins, "kubelet.sock")))
}

func slash(name string) string {
	if strings.HasSuffix(name, "/") {
		return "/"
	}
	return ""
}

// uninstallFiles is Run, without processes, network and cgroups.
func uninstallFiles(u *userTrees, l layout.Layout) []string {
	u.Helper()
	r, said := runOn(u.T, l)
	r.Kept = func(what string) { *said = append(*said, "kept "+what) }
	r.sharesKubelet = r.isShared()
	r.removeMounts()
	r.removeOutside()
	r.removeOwn()
	if len(r.errs) > 0 {
		u.Errorf("errors %v", r.errs)
	}
	return *said
}

// mustBeGone finds what is neither the user's nor on the way to it.
func (u *userTrees) mustBeGone(l layout.Layout) {
	u.Helper()
	for _, root := range []string{l.Data(), l.Run(), "/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/var/lib/cni", "/etc/brink"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil
			}
			if u.planted[path] {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			isState := u.foreign && l.IsDefault() && layout.IsBelow(path, "/var/lib/kubelet") && filepath.Base(path) != "cpu_manager_state"
			isStale := u.foreign && layout.IsBelow(path, ledger.DevicePlugins)
			if !u.leadsToPlanted(path) && !isState && !isStale {
				u.Errorf("%s of brink stays", path)
			}
			return nil
		})
	}
}

func (u *userTrees) leadsToPlanted(dir string) bool {
	for path := range u.planted {
		if layout.IsBelow(path, dir) {
			return true
		}
	}
	return false
}
