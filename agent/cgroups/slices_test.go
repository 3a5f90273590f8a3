package cgroups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"brink/internal/testerror"
	"brink/internal/testtree"
)

// systemctlThat puts a systemctl into the path that runs script.
func systemctlThat(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// TestMakeSlice: systemd makes the slice, and the controllers that it leaves out are passed
// down, also to a slice that was there.
func TestMakeSlice(t *testing.T) {
	mount := testtree.Make(t, map[string]string{"cgroup.controllers": "cpu memory\n"})
	slice := mount + "/edge.slice/edge-pods.slice"
	mk := "mkdir -p " + slice + " && echo cpu >" + mount + "/edge.slice/cgroup.controllers"
	for _, tt := range []struct{ name, script, want string }{
		{"refused", "echo Access denied >&2; exit 1", "systemctl start edge-pods.slice: exit status 1: Access denied"},
		{"made nothing", "true", "edge-pods.slice without a control group /edge.slice/edge-pods.slice"},
		{"made", `[ "$*" = "start -- edge-pods.slice" ] && ` + mk, ""},
		{"is there", "exit 1", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			systemctlThat(t, tt.script)
			err := makeSlice(t.Context(), []string{mount}, "/edge/pods", 2)
			if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if err == nil {
				holds(t, mount, map[string]string{"cgroup.subtree_control": "+cpu +memory", "edge.slice/cgroup.subtree_control": "+cpu"})
				_ = os.Remove(filepath.Join(mount, "cgroup.subtree_control"))
			}
		})
	}
}

func TestKubeletRoot(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		root    string
		systemd bool
		want    string // for the kubelet
		pods    string
	}{
		{"", false, "", "/kubepods"},
		{"/", false, "/", "/kubepods"},
		{"/n1/deep", false, "/n1/deep", "/n1/deep/kubepods"},
		{"/edge.slice", false, "/edge.slice", "/edge.slice/kubepods"},
		{"", true, "", "/kubepods.slice"},
		{"/", true, "/", "/kubepods.slice"},
		{"-.slice", true, "/", "/kubepods.slice"},
		{"edge.slice", true, "/edge", "/edge.slice/edge-kubepods.slice"},
		{"/edge.slice", true, "/edge", "/edge.slice/edge-kubepods.slice"},
		{"edge-pods.slice", true, "/edge/pods", "/edge.slice/edge-pods.slice/edge-pods-kubepods.slice"},
		{"/edge.slice/edge-pods.slice", true, "/edge/pods", "/edge.slice/edge-pods.slice/edge-pods-kubepods.slice"},
		{"/edge/pods", true, "/edge/pods", "/edge.slice/edge-pods.slice/edge-pods-kubepods.slice"},
		{"/edge-pods", true, "/edge-pods", "/edge_pods.slice/edge_pods-kubepods.slice"},
	} {
		got, err := KubeletRoot(c.root, c.systemd)
		if err != nil || got != c.want || ForPods(got, c.systemd) != c.pods {
			t.Errorf("%q systemd %v: got %s and %s (%v), want %s and %s", c.root, c.systemd, got, ForPods(got, c.systemd), err, c.want, c.pods)
		}
	}
	for root, want := range map[string]string{
		"edge--pods.slice":        "edge--pods.slice is not a name of a slice",
		"/pods.slice/-edge.slice": "-edge.slice is not a name of a slice",
		"/edge.slice/pods.slice":  "the slice pods.slice is at /pods.slice: give pods.slice",
	} {
		_, err := KubeletRoot(root, true)
		testerror.OneLine(t, err, "--kubelet-arg=cgroup-root="+root+": ")
		testerror.OneLine(t, err, want)
	}
}
