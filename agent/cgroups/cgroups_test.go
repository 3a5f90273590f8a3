package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"brink/agent/ledger"
	"brink/internal/testneed"
	"brink/internal/testtree"
)

// holds fails unless the files have these contents; "gone" is no file.
func holds(t *testing.T, root string, want map[string]string) {
	t.Helper()
	for name, content := range want {
		got, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) {
			got = []byte("gone")
		} else if err != nil {
			t.Error(err)
		}
		if string(got) != content {
			t.Errorf("%s holds %q, want %q", name, got, content)
		}
	}
}

func TestHierarchies(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		files map[string]string
		want  []string // below the mount
	}{
		{"version 2", map[string]string{"cgroup.controllers": "cpu memory\n", "system.slice/": ""}, []string{""}},
		{"version 1", map[string]string{"cpu,cpuacct/": "", "memory/": "", "cpu": "->cpu,cpuacct", "README": "x"}, []string{"cpu,cpuacct", "memory"}},
		{"hybrid", map[string]string{"memory/": "", "unified/cgroup.controllers": ""}, []string{"memory", "unified"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			mount := testtree.Make(t, tt.files)
			got, err := Hierarchies(mount)
			var want []string
			for _, name := range tt.want {
				want = append(want, filepath.Join(mount, name))
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("got %q (%v), want %q", got, err, want)
			}
		})
	}
	if _, err := Hierarchies(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without control groups: got %v", err)
	}
}

// TestVersion1FillsCpusets: the kernel makes a cpuset's files empty, and an
// empty one takes no process.
func TestVersion1FillsCpusets(t *testing.T) {
	t.Parallel()
	mount := testtree.Make(t, map[string]string{
		"cpuset.cpus": "0-3\n", "cpuset.mems": "0\n",
		"a/cpuset.cpus": "\n", "a/cpuset.mems": "",
		"a/b/cpuset.cpus": "2\n", "a/b/cpuset.mems": "\n",
	})
	for range 2 { // a second start finds all of it
		if err := makeBelow(mount, "/a/b/", 1); err != nil {
			t.Fatal(err)
		}
	}
	holds(t, mount, map[string]string{
		"a/cpuset.cpus": "0-3\n", "a/cpuset.mems": "0\n",
		"a/b/cpuset.cpus": "2\n", // somebody's choice stays
		"a/b/cpuset.mems": "0\n",
	})
}

func TestVersion1OtherHierarchies(t *testing.T) {
	t.Parallel()
	mount := testtree.Make(t, map[string]string{"tasks": ""})
	if err := makeBelow(mount, "a/b", 1); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(mount, "a", "b")); err != nil || !info.IsDir() {
		t.Errorf("the group was not made: %v", err)
	}
	holds(t, mount, map[string]string{"a/cpuset.cpus": "gone", "a/cgroup.subtree_control": "gone"})
}

func TestVersion2PassesControllersDown(t *testing.T) {
	t.Parallel()
	mount := testtree.Make(t, map[string]string{
		"cgroup.controllers":     "cpuset cpu io memory pids\n",
		"a/cgroup.controllers":   "cpu memory\n",
		"a/b/cgroup.controllers": "",
	})
	if err := makeBelow(mount, "/a/b", 2); err != nil {
		t.Fatal(err)
	}
	holds(t, mount, map[string]string{
		"cgroup.subtree_control":     "+cpuset +cpu +io +memory +pids",
		"a/cgroup.subtree_control":   "+cpu +memory",
		"a/b/cgroup.subtree_control": "gone", // the kubelet's own business
	})
}

// TestVersion2WithoutControllers is a container without delegation: there is
// nothing to pass down, and the host check says what is missing.
func TestVersion2WithoutControllers(t *testing.T) {
	t.Parallel()
	mount := testtree.Make(t, map[string]string{"cgroup.controllers": "\n"})
	if err := makeBelow(mount, "/a", 2); err != nil {
		t.Fatal(err)
	}
	holds(t, mount, map[string]string{"cgroup.subtree_control": "gone"})
}

func TestMakeCgroupSkipsUnified(t *testing.T) {
	t.Parallel()
	mount := testtree.Make(t, map[string]string{"memory/": "", "unified/": ""})
	all := []string{filepath.Join(mount, "memory"), filepath.Join(mount, "unified")}
	if err := makeCgroup(all, "/a", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mount, "memory", "a")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(mount, "unified", "a")); err == nil {
		t.Error("a group was made in the hierarchy without controllers")
	}
}

func TestMakeBelowFails(t *testing.T) {
	t.Parallel()
	mount := testtree.Make(t, map[string]string{"a": "a file"})
	if err := makeBelow(mount, "/a/b", 1); err == nil {
		t.Error("a group was made below a file")
	}
	if err := makeBelow(t.TempDir(), "/a", 2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("version 2 without cgroup.controllers: got %v", err)
	}
}

// TestRealCgroup asks this machine's kernel: the group must take a process.
func TestRealCgroup(t *testing.T) {
	t.Parallel()
	all, err := Hierarchies(Mount)
	if err != nil {
		testneed.OtherKernel(t, "cgroups")
	}
	if len(all) == 1 {
		testneed.OtherKernel(t, "version 1 of cgroups; version 2 takes no group below one with processes")
	}
	i := slices.Index(all, filepath.Join(Mount, "cpuset"))
	if i < 0 {
		testneed.OtherKernel(t, "a cpuset hierarchy")
	}
	testneed.Root(t)
	name := fmt.Sprintf("brink-test-%d", os.Getpid())
	group := filepath.Join(all[i], name)
	t.Cleanup(func() {
		for _, dir := range []string{filepath.Join(group, "pods"), group} {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	if err := makeCgroup(all[i:i+1], "/"+name+"/pods", 1); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		if got, err := os.ReadFile(filepath.Join(group, "pods", file)); err != nil || strings.TrimSpace(string(got)) == "" {
			t.Errorf("%s of the new group is %q (%v)", file, got, err)
		}
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	mount := t.TempDir()
	for _, dir := range []string{"memory/n1", "cpu,cpuacct/n1/kubepods", "unified"} {
		if err := os.MkdirAll(filepath.Join(mount, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("cpu,cpuacct", filepath.Join(mount, "cpu")); err != nil {
		t.Fatal(err)
	}
	all, err := Hierarchies(mount)
	if err != nil {
		t.Fatal(err)
	}
	want := []ledger.Entry{
		{Kind: ledger.PodCgroups, Path: "cpu,cpuacct/n1/kubepods"},
		{Kind: ledger.Cgroup, Path: "memory/n1/kubepods"}, {Kind: ledger.PodCgroups, Path: "memory/n1/kubepods"},
		{Kind: ledger.Cgroup, Path: "unified/n1"}, {Kind: ledger.Cgroup, Path: "unified/n1/kubepods"}, {Kind: ledger.PodCgroups, Path: "unified/n1/kubepods"},
	}
	for i := range want {
		want[i].Path = filepath.Join(mount, want[i].Path)
	}
	if got := Entries(all, "/n1/kubepods"); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
