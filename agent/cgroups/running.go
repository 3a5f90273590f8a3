package cgroups

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// BundleFiles matches the OCI configurations of containers below the state directory of
// containerd.
const BundleFiles = "io.containerd.runtime.v2.task/*/*/config.json"

// Running counts the containers of pods that run now, by the driver that made their
// groups. It goes by the configurations that containerd has given to runc, which lie in
// the directory state, and by what the kernel says of the groups that these name.
func Running(state string, hierarchies []string) (systemd, cgroupfs int) {
	paths, _ := filepath.Glob(filepath.Join(state, BundleFiles))
	for _, path := range paths {
		group, isSlice, ok := podGroup(path)
		switch {
		case !ok || !hasProcesses(hierarchies, group):
		case isSlice:
			systemd++
		default:
			cgroupfs++
		}
	}
	return systemd, cgroupfs
}

// podGroup returns the group of a pod's container by its OCI configuration.
func podGroup(config string) (group string, isSlice, ok bool) {
	text, err := os.ReadFile(config)
	if err != nil {
		return "", false, false // gone meanwhile
	}
	var spec struct {
		Annotations map[string]string
		Linux       struct{ CgroupsPath string }
	}
	if json.Unmarshal(text, &spec) != nil || spec.Annotations["io.kubernetes.cri.container-type"] == "" || spec.Linux.CgroupsPath == "" {
		return "", false, false
	}
	group, isSlice = OfContainer(spec.Linux.CgroupsPath)
	return group, isSlice, true
}

// OfContainer returns the group of runc's cgroupsPath. That is a path, or with the systemd
// driver slice:prefix:name.
func OfContainer(cgroupsPath string) (group string, isSlice bool) {
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 {
		return filepath.Join("/", cgroupsPath), false
	}
	return filepath.Join(ExpandSlice(parts[0]), parts[1]+"-"+parts[2]+".scope"), true
}

// hasProcesses reports whether a group has processes, itself or in a group below.
func hasProcesses(hierarchies []string, group string) bool {
	found := false
	for _, mount := range hierarchies {
		_ = filepath.WalkDir(filepath.Join(mount, group), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil
			}
			text, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if found = len(text) > 0; found {
				return fs.SkipAll
			}
			return nil
		})
		if found {
			return true
		}
	}
	return false
}
