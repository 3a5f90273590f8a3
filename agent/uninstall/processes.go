package uninstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/procfs"

	"brink/agent/cgroups"
	"brink/internal/datadir"
	"brink/internal/layout"
)

// killLimit is long because a process in the middle of I/O on a slow flash card ends late.
const killLimit = 30 * time.Second

// bundle is a container as its shim knows it.
type bundle struct {
	id      string
	cgroup  string // as a path below a hierarchy's mount
	pod     string // uid, empty for a container that `brink ctr` made
	sandbox bool
	init    int
}

// readBundles reads the OCI configuration and the process id of each container from the
// state directory of containerd and its shims.
func readBundles(state string) []bundle {
	paths, _ := filepath.Glob(filepath.Join(state, cgroups.BundleFiles))
	var out []bundle
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // gone meanwhile
		}
		if b, ok := parseBundle(data); ok {
			b.id = filepath.Base(filepath.Dir(path))
			pid, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "init.pid"))
			b.init, _ = strconv.Atoi(strings.TrimSpace(string(pid)))
			out = append(out, b)
		}
	}
	return out
}

func parseBundle(config []byte) (bundle, bool) {
	var spec struct {
		Annotations map[string]string
		Linux       struct{ CgroupsPath string }
	}
	if json.Unmarshal(config, &spec) != nil || spec.Linux.CgroupsPath == "" {
		return bundle{}, false
	}
	group, _ := cgroups.OfContainer(spec.Linux.CgroupsPath)
	return bundle{
		cgroup:  group,
		pod:     spec.Annotations["io.kubernetes.cri.sandbox-uid"],
		sandbox: spec.Annotations["io.kubernetes.cri.container-type"] == "sandbox",
	}, true
}

// podCgroup returns the group of the whole pod, which also holds processes that are no
// longer in a container.
func (b bundle) podCgroup() string {
	parent := filepath.Dir(b.cgroup)
	if b.pod != "" && isPodCgroup(filepath.Base(parent), b.pod) {
		return parent
	}
	return b.cgroup
}

// isPodCgroup reports whether a group is that of a pod, by the names of both drivers:
// pod<uid>, and for systemd kubepods-besteffort-pod<uid with underscores>.slice.
func isPodCgroup(name, uid string) bool {
	return name == "pod"+uid || strings.HasSuffix(name, "-pod"+strings.ReplaceAll(uid, "-", "_")+".slice")
}

// removePods ends the containers, then the shims that watch over them.
func (u *run) removePods(ctx context.Context) error {
	shims := payloadProcesses(u.Layout)
	victims := u.podProcesses()
	if victims[os.Getpid()] {
		return errors.New("this command runs inside a pod of the node: run it on the machine itself")
	}
	u.terminate(ctx, shims, u.stops())
	if !waitFor(ctx, killLimit, u.killAll) {
		return errors.Join(ctx.Err(), u.survivors())
	}
	if len(shims) > 0 || len(victims) > 0 {
		u.Removed(number(len(shims), "pod", "pods") + " with " + number(len(victims), "process", "processes"))
	}
	return nil
}

// killAll kills once and reports whether nothing was left to kill. Shims come last: one
// that ended before its containers would leave them to another parent.
func (u *run) killAll() bool {
	if signal(syscall.SIGKILL, u.podProcesses) > 0 {
		return false
	}
	return signal(syscall.SIGKILL, func() map[int]bool { return setOf(payloadProcesses(u.Layout)) }) == 0
}

func (u *run) survivors() error {
	var errs []error
	for _, pid := range append(payloadProcesses(u.Layout), slices.Sorted(maps.Keys(u.podProcesses()))...) {
		name := ""
		if p, err := procfs.NewProc(pid); err == nil {
			name, _ = p.Comm()
		}
		errs = append(errs, fmt.Errorf("process %d (%s) does not end: nothing was removed yet, try again when it has ended", pid, name))
	}
	return errors.Join(errs...)
}

// signal sends sig to the processes that find returns, and returns how many those were.
// Process ids are reused, so a process gets the signal only if find returns it again once
// it is held by a descriptor.
func signal(sig syscall.Signal, find func() map[int]bool) int {
	held := map[int]*os.Process{}
	for pid := range find() {
		if p, err := os.FindProcess(pid); err == nil && pid > 1 {
			held[pid] = p
		}
	}
	if len(held) == 0 {
		return 0
	}
	still := find()
	for pid, p := range held {
		if still[pid] {
			_ = p.Signal(sig) // an error means that it has ended, or the next round finds it
		}
		_ = p.Release()
	}
	return len(held)
}

func setOf(pids []int) map[int]bool {
	out := map[int]bool{}
	for _, pid := range pids {
		out[pid] = true
	}
	return out
}

// podProcesses returns all descendants of our shims and all processes in our pods' groups:
// a process may have left one of the two.
func (u *run) podProcesses() map[int]bool {
	out := descendants(processes(), payloadProcesses(u.Layout))
	mounts, _ := cgroups.Hierarchies(cgroups.Mount)
	for _, b := range u.bundles {
		for _, mount := range mounts {
			for _, pid := range processesIn(filepath.Join(mount, b.podCgroup())) {
				out[pid] = true
			}
		}
	}
	return out
}

// processesIn returns the processes in a group and in the groups below it.
func processesIn(cgroup string) []int {
	var out []int
	_ = filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				out = append(out, pid)
			}
		}
		return nil
	})
	return out
}

// descendants returns the children of roots, their children and so on. parents
// maps a process to its parent.
func descendants(parents map[int]int, roots []int) map[int]bool {
	children := map[int][]int{}
	for pid, parent := range parents {
		children[parent] = append(children[parent], pid)
	}
	out := map[int]bool{}
	for queue := slices.Clone(roots); len(queue) > 0; queue = queue[1:] {
		for _, pid := range children[queue[0]] {
			if !out[pid] && !slices.Contains(roots, pid) {
				out[pid] = true
				queue = append(queue, pid)
			}
		}
	}
	return out
}

// processes maps every process that has not ended to its parent.
func processes() map[int]int {
	all, _ := procfs.AllProcs()
	out := map[int]int{}
	for _, p := range all {
		if parent := parentOf(p.PID); parent >= 0 {
			out[p.PID] = parent
		}
	}
	return out
}

// parentOf returns the parent of a process, or -1 for one that has ended, even if it still
// waits to be reaped.
func parentOf(pid int) int {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return -1
	}
	stat, err := p.Stat()
	if err != nil || stat.State == "Z" || stat.State == "X" {
		return -1
	}
	return stat.PPID
}

func procFile(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// payloadProcesses returns the processes that run a program of this node's payload: shims,
// and what is left of a runc or a CNI plugin.
func payloadProcesses(l layout.Layout) []int {
	var out []int
	for pid := range processes() {
		if runsPayload(l, pid) {
			out = append(out, pid)
		}
	}
	slices.Sort(out)
	return out
}

// runsPayload reports whether a process runs a program of this node's payload. It compares
// the file itself: in a container with a brink of its own the same path is another file.
// Of a deleted file only the path is left; then the mount namespace must be ours.
func runsPayload(l layout.Layout, pid int) bool {
	exe, err := os.Readlink(procFile(pid, "exe"))
	if err != nil {
		return false
	}
	path, deleted := strings.CutSuffix(exe, " (deleted)")
	if !layout.IsBelow(path, datadir.Resolve(l.Payload())) || !servesSocket(pid, l.ContainerdSocket()) {
		return false
	}
	if deleted {
		return sameLink(procFile(pid, "ns/mnt"), "/proc/self/ns/mnt")
	}
	running, err := os.Stat(procFile(pid, "exe"))
	if err != nil {
		return false
	}
	ours, err := os.Stat(path)
	return err == nil && os.SameFile(running, ours)
}

// servesSocket reports whether a process belongs to the containerd with this socket. Shims
// name it in their arguments; other programs name none and count as belonging.
func servesSocket(pid int, socket string) bool {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return false
	}
	args, err := p.CmdLine()
	i := slices.Index(args, "-address")
	return err == nil && (i < 0 || i+1 < len(args) && args[i+1] == socket)
}

func sameLink(a, b string) bool {
	left, err := os.Readlink(a)
	right, err2 := os.Readlink(b)
	return err == nil && err2 == nil && left == right
}
