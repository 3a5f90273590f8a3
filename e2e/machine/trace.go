package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// trace is how the processes and cgroups of a machine are known: by ids that
// this run made.
type trace struct {
	ID  string `json:"id"`
	Dir string `json:"dir"`
	// Paths are directories of this machine alone, each with a slash at its end:
	// a process that runs from them, works in them or names them is the machine's.
	Paths []string `json:"paths"`
	// Namespace is the machine's mount namespace, such as mnt:[4026532281], and
	// Holder a process in it.
	Namespace string `json:"namespace"`
	Holder    int    `json:"holder"`
}

// trace of a machine with a default installation has no paths: a real brink of
// the host would have the same ones.
func (m *Machine) trace() trace {
	t := trace{ID: m.ID, Dir: m.Dir, Namespace: m.namespace}
	if m.Holder != nil {
		t.Holder = m.Holder.PID()
	}
	if !m.IsDefault() {
		t.Paths = []string{m.Data + "/", m.Layout().Run() + "/"}
	}
	return t
}

// Processes are those of the machine: its holder, brink, the shims and the pods.
func (m *Machine) Processes() []int { return m.trace().processes() }

// hold keeps the mount namespace in being: the kernel gives the number of one
// that is gone to the next. It is nil when the machine never had one.
func (t trace) hold() *os.File {
	path := fmt.Sprintf("/proc/%d/ns/mnt", t.Holder)
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	if name, err := os.Readlink(path); err != nil || name != t.Namespace {
		_ = f.Close()
		return nil
	}
	return f
}

// processes lists brink, its shims and what runs in its pods, and the holder.
func (t trace) processes() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && t.owns(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// isInside reports whether a process is in a mount namespace.
func isInside(pid int, namespace string) bool {
	mnt, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	return err == nil && mnt == namespace
}

// IsInside reports whether a process is in the machine's mount namespace. Pods have
// namespaces of their own.
func (m *Machine) IsInside(pid int) bool { return isInside(pid, m.namespace) }

// PodProcesses are those of a pod, known by the cgroup that carries its UID.
func (m *Machine) PodProcesses(uid string) []int {
	return slices.DeleteFunc(m.Processes(), func(pid int) bool {
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		return !strings.Contains(string(cgroup), uid)
	})
}

// Shims are the processes that hold the containers while brink is away, one a pod.
func (m *Machine) Shims() []int {
	return slices.DeleteFunc(m.Processes(), func(pid int) bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return !strings.HasPrefix(string(name), "containerd-shim")
	})
}

// owns reports whether a process is the machine's.
func (t trace) owns(pid int) bool {
	if isInside(pid, t.Namespace) {
		return true
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	cgroup, _ := os.ReadFile(proc + "cgroup")
	if strings.Contains(string(cgroup), ":/"+t.ID) {
		return true
	}
	cwd, _ := os.Readlink(proc + "cwd")
	exe, _ := os.Readlink(proc + "exe")
	cmdline, _ := os.ReadFile(proc + "cmdline")
	for _, text := range []string{cwd, exe, string(cmdline)} {
		if slices.ContainsFunc(t.Paths, func(path string) bool { return strings.Contains(text, path) }) {
			return true
		}
	}
	return false
}

// cgroups lists the machine's cgroups, and those that a test made beside them,
// children before parents.
func (t trace) cgroups() []string {
	roots, _ := filepath.Glob(filepath.Join(CgroupFS, "*", t.ID+"*"))
	beside, _ := filepath.Glob(filepath.Join(CgroupFS, t.ID+"*"))
	var dirs []string
	for _, root := range append(roots, beside...) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	slices.Reverse(dirs)
	return dirs
}

// erase ends and removes everything that the trace leads to.
func (t trace) erase() error {
	deadline := time.Now().Add(time.Minute)
	if err := t.endProcesses(deadline); err != nil {
		return err
	}
	for _, dir := range t.cgroups() {
		if err := removeCgroup(dir, deadline); err != nil {
			return fmt.Errorf("machine %s: %w", t.ID, err)
		}
	}
	if err := os.RemoveAll(t.Dir); err != nil {
		return err
	}
	// What began while the list was read.
	if pids := t.processes(); len(pids) > 0 {
		return fmt.Errorf("machine %s: processes %v have come back", t.ID, pids)
	}
	return nil
}

func (t trace) endProcesses(deadline time.Time) error {
	for pids := t.processes(); len(pids) > 0; pids = t.processes() {
		if time.Now().After(deadline) {
			return fmt.Errorf("machine %s: processes %v do not end", t.ID, pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// removeCgroup tries again while the kernel lets go of processes that ended.
func removeCgroup(dir string, deadline time.Time) error {
	for {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Destroy removes the machine, whatever state it is in. The janitor goes on
// knowing one that could not be removed.
func (m *Machine) Destroy() error {
	t := m.trace()
	if held := t.hold(); held != nil {
		defer func() { _ = held.Close() }()
	}
	if m.Holder != nil {
		// Mounts of a data directory (a loop device) go with the namespace,
		// which ends with its last process.
		_ = m.Holder.cmd.Process.Kill()
	}
	err := t.erase()
	if m.Holder != nil {
		m.Holder.Close()
	}
	if err != nil {
		return err
	}
	return m.config.Janitor.forget(m)
}
