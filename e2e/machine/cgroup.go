package machine

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// CgroupFS is where every distribution mounts its cgroups.
const CgroupFS = "/sys/fs/cgroup"

// Cgroup2 reports whether the host has cgroups of version 2.
func Cgroup2() bool {
	var s unix.Statfs_t
	return unix.Statfs(CgroupFS, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC
}

// Setting is one limit under its two names: a controller and a file of version
// 1, and a file of version 2.
type Setting struct{ Controller, V1, V2 string }

var (
	MemoryLimit = Setting{"memory", "memory.limit_in_bytes", "memory.max"}
	CPUShares   = Setting{"cpu", "cpu.shares", "cpu.weight"}
	CPUQuota    = Setting{"cpu", "cpu.cfs_quota_us", "cpu.max"}
	CPUStat     = Setting{"cpu", "cpu.stat", "cpu.stat"}
)

// CgroupOf finds the cgroup below the machine's root whose last name contains
// id, a pod's UID or a container's id. The systemd driver writes dashes of a UID
// as underscores.
func (m *Machine) CgroupOf(controller, id string) (string, error) {
	root := filepath.Join(CgroupFS, controller, m.ID)
	if Cgroup2() {
		root = filepath.Join(CgroupFS, m.ID)
	}
	found := ""
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone while we look
		}
		name := strings.ReplaceAll(d.Name(), "_", "-")
		if d.IsDir() && strings.Contains(name, id) {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	if err == nil && found == "" {
		err = fmt.Errorf("no cgroup below %s for %s", root, id)
	}
	return found, err
}

// CgroupValue is the content of a setting's file for a pod or container.
func (m *Machine) CgroupValue(s Setting, id string) (string, error) {
	dir, err := m.CgroupOf(s.Controller, id)
	if err != nil {
		return "", err
	}
	file := s.V1
	if Cgroup2() {
		file = s.V2
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b)), err
}

// ContainerProcesses are the processes of a container as the host numbers them,
// the first being its own init.
func (m *Machine) ContainerProcesses(containerID string) ([]int, error) {
	_, id, _ := strings.Cut(containerID, "://")
	dir, err := m.CgroupOf("memory", id)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, word := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("container %s has no process", containerID)
	}
	// The kernel lists them by number, and numbers begin again at some time.
	slices.SortStableFunc(pids, func(a, b int) int { return cmp.Compare(innerPID(a), innerPID(b)) })
	return pids, nil
}

// innerPID is the number of a process in its own namespace: 1 is a container's first.
func innerPID(pid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(status)) {
		if numbers, ok := strings.CutPrefix(line, "NSpid:"); ok {
			fields := strings.Fields(numbers)
			inner, _ := strconv.Atoi(fields[len(fields)-1])
			return inner
		}
	}
	return pid
}
