package cgroups

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

const slice = ".slice"

// KubeletRoot returns the cgroup root as the kubelet wants to have it. With the systemd
// driver users name a slice, as in edge.slice or edge-pods.slice, also by its path
// /edge.slice/edge-pods.slice. The kubelet knows no slices there: it makes them of a path,
// here of /edge/pods, and would make edge.slice.slice of the user's. A path is left as it
// is, and so is everything with the driver cgroupfs.
func KubeletRoot(root string, systemd bool) (string, error) {
	if !systemd || !strings.HasSuffix(root, slice) {
		return root, nil
	}
	unit := filepath.Base(root)
	if unit == "-"+slice {
		return "/", nil // systemd's name of the root
	}
	parts := strings.Split(strings.TrimSuffix(unit, slice), "-")
	if slices.Contains(parts, "") {
		return "", fmt.Errorf("--kubelet-arg=cgroup-root=%s: %s is not a name of a slice: its words are joined by one - each, as in edge-pods.slice", root, unit)
	}
	if path := ExpandSlice(unit); strings.Contains(strings.Trim(root, "/"), "/") && filepath.Clean("/"+root) != path {
		return "", fmt.Errorf("--kubelet-arg=cgroup-root=%s: the slice %s is at %s: give %s", root, unit, path, unit)
	}
	return "/" + strings.Join(parts, "/"), nil
}

// ForPods returns the group below which the kubelet makes those of pods, as a path below a
// hierarchy's mount. root is one of KubeletRoot.
func ForPods(root string, systemd bool) string {
	path := filepath.Join("/", root, "kubepods")
	if !systemd {
		return path
	}
	return ExpandSlice(strings.ReplaceAll(escape(path)[1:], "/", "-") + slice)
}

// escape replaces what separates a slice from the one above it, as the kubelet does.
func escape(name string) string { return strings.ReplaceAll(name, "-", "_") }

// ExpandSlice returns the path that systemd gives a slice: a-b.slice is in a.slice.
func ExpandSlice(unit string) string {
	path, name := "/", ""
	for _, part := range strings.Split(strings.TrimSuffix(unit, slice), "-") {
		name += part
		path = filepath.Join(path, name+slice)
		name += "-"
	}
	return path
}
