package e2e

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

// cgroupFS is where every distribution mounts its cgroups.
const cgroupFS = "/sys/fs/cgroup"

// cgroup2 tells which kind of hierarchy the host has.
func cgroup2() bool {
	var s unix.Statfs_t
	return unix.Statfs(cgroupFS, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC
}

// setting is one limit under its two names: a controller and a file of version
// 1, and a file of version 2.
type setting struct{ controller, v1, v2 string }

var (
	memoryLimit = setting{"memory", "memory.limit_in_bytes", "memory.max"}
	cpuShares   = setting{"cpu", "cpu.shares", "cpu.weight"}
	cpuQuota    = setting{"cpu", "cpu.cfs_quota_us", "cpu.max"}
	cpuStat     = setting{"cpu", "cpu.stat", "cpu.stat"}
)

// cgroupOf finds the cgroup below the machine's root whose last name contains
// id, a pod's UID or a container's id. The systemd driver writes dashes of a UID
// as underscores.
func (m *machine) cgroupOf(controller, id string) (string, error) {
	root := filepath.Join(cgroupFS, controller, m.id)
	if cgroup2() {
		root = filepath.Join(cgroupFS, m.id)
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

// cgroupValue is the content of a setting's file for a pod or container.
func (m *machine) cgroupValue(s setting, id string) (string, error) {
	dir, err := m.cgroupOf(s.controller, id)
	if err != nil {
		return "", err
	}
	file := s.v1
	if cgroup2() {
		file = s.v2
	}
	b, err := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b)), err
}

// containerProcesses are the processes of a container as the host numbers them,
// the first being its own init.
func (m *machine) containerProcesses(containerID string) ([]int, error) {
	_, id, _ := strings.Cut(containerID, "://")
	dir, err := m.cgroupOf("memory", id)
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
