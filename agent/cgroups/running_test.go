package cgroups

import (
	"path/filepath"
	"testing"

	"brink/internal/testtree"
)

// TestRunning: containers of pods count while the kernel has processes of theirs.
func TestRunning(t *testing.T) {
	t.Parallel()
	pod := func(cgroup string) string {
		return `{"annotations":{"io.kubernetes.cri.container-type":"container"},"linux":{"cgroupsPath":"` + cgroup + `"}}`
	}
	const tasks = "io.containerd.runtime.v2.task/k8s.io/"
	state := testtree.Make(t, map[string]string{
		tasks + "runs/config.json":                              pod("kubepods-podx.slice:cri-containerd:c1"),
		tasks + "has-ended/config.json":                         pod("kubepods-podx.slice:cri-containerd:c2"),
		tasks + "a-reboot/config.json":                          pod("/kubepods/podz/c3"),
		tasks + "path/config.json":                              pod("/kubepods/pody/c4"),
		tasks + "path2/config.json":                             pod("/kubepods/pody/c5"),
		tasks + "broken/config.json":                            "{",
		tasks + "none/rootfs":                                   "",
		"io.containerd.runtime.v2.task/default/ctr/config.json": `{"linux":{"cgroupsPath":"/default/c6"}}`,
	})
	mount := testtree.Make(t, map[string]string{
		"a/kubepods.slice/kubepods-podx.slice/cri-containerd-c1.scope/cgroup.procs": "4711\n",
		"a/kubepods.slice/kubepods-podx.slice/cri-containerd-c2.scope/cgroup.procs": "",
		"b/kubepods/pody/c4/cgroup.procs":                                           "",
		"b/kubepods/pody/c4/inner/cgroup.procs":                                     "4712\n", // as systemd in a container has it
		"a/kubepods/pody/c5/cgroup.procs":                                           "4713\n",
		"a/default/c6/cgroup.procs":                                                 "4714\n",
	})
	systemd, cgroupfs := Running(state, []string{filepath.Join(mount, "a"), filepath.Join(mount, "b")})
	if systemd != 1 || cgroupfs != 2 {
		t.Errorf("%d by systemd and %d by cgroupfs, want 1 and 2", systemd, cgroupfs)
	}
	if systemd, cgroupfs := Running(t.TempDir(), nil); systemd != 0 || cgroupfs != 0 {
		t.Errorf("before the first start: %d and %d", systemd, cgroupfs)
	}
}
