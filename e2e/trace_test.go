package e2e

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
	"testing"
	"time"
)

// trace is how the processes and cgroups of a machine are known: by ids that
// this run made.
type trace struct {
	ID  string `json:"id"`
	Dir string `json:"dir"`
	// Paths are directories of this machine alone, each with a slash at its end:
	// who runs from them, works in them or names them is the machine's.
	Paths []string `json:"paths"`
	// Namespace is the machine's mount namespace, such as mnt:[4026532281], and
	// Holder a process in it.
	Namespace string `json:"namespace"`
	Holder    int    `json:"holder"`
	CgroupFS  string `json:"cgroupFS"`
}

// trace of a machine with a default installation has no paths: a real brink of
// the host would have the same ones.
func (m *machine) trace() trace {
	t := trace{ID: m.id, Dir: m.dir, Namespace: m.namespace, CgroupFS: cgroupFS}
	if m.holder != nil {
		t.Holder = m.holder.pid()
	}
	if !m.isDefault() {
		t.Paths = []string{m.data + "/", m.layout().Run() + "/"}
	}
	return t
}

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

func (t trace) owns(pid int) bool {
	proc := fmt.Sprintf("/proc/%d/", pid)
	if mnt, err := os.Readlink(proc + "ns/mnt"); err == nil && mnt == t.Namespace {
		return true
	}
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
	roots, _ := filepath.Glob(filepath.Join(t.CgroupFS, "*", t.ID+"*"))
	beside, _ := filepath.Glob(filepath.Join(t.CgroupFS, t.ID+"*"))
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

// destroy removes the machine, whatever state it is in. The janitor goes on
// knowing one that could not be removed.
func (m *machine) destroy() error {
	m.saveLogs()
	t := m.trace()
	if held := t.hold(); held != nil {
		defer func() { _ = held.Close() }()
	}
	if m.holder != nil {
		// Mounts of a data directory (a loop device) go with the namespace,
		// which ends with its last process.
		_ = m.holder.cmd.Process.Kill()
	}
	err := t.erase()
	if m.holder != nil {
		m.holder.close()
	}
	if err != nil {
		return err
	}
	return theJanitor.forget(m)
}

// TestDestroy: of a process that only the namespace leads to, such as a brink
// whose stop has failed, nothing may stay.
func TestDestroy(t *testing.T) {
	m, err := newMachine()
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.command(t.Context(), "sleep", "100000")
	if err := cmd.Start(); err != nil {
		t.Fatal(errors.Join(err, m.destroy()))
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	err = eventually(func() error {
		if line := commandLine(cmd.Process.Pid); line != "sleep 100000" {
			return fmt.Errorf("the command has not begun: %s", line)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := m.destroy(); err != nil {
		t.Error(err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Errorf("process %d of the machine lives on", cmd.Process.Pid)
		_ = cmd.Process.Kill()
	}
	if _, err := os.Stat(m.dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the machine's directory is there: %v", err)
	}
}

// saveLogs keeps brink's output where the user wants it.
func (m *machine) saveLogs() {
	dir := os.Getenv("BRINK_E2E_LOGS")
	logs, _ := filepath.Glob(filepath.Join(m.dir, "brink.*"))
	if dir == "" || len(logs) == 0 {
		return
	}
	dir = filepath.Join(dir, m.id)
	_ = os.MkdirAll(dir, 0o755)
	for _, path := range logs {
		if b, err := os.ReadFile(path); err == nil {
			_ = os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o644)
		}
	}
}
