// Package cgroups knows where the control groups of a node's pods are. By control groups
// the kernel limits what groups of processes may use. The kubelet makes one for each pod,
// with names that depend on its driver, cgroupfs or systemd. This package makes the root
// group that the kubelet expects to find. It never touches groups that brink did not make:
// Entries returns those that are about to be made, for the ledger.
package cgroups

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"brink/agent/ledger"
)

// Mount is where all distributions mount control groups.
const Mount = "/sys/fs/cgroup"

// MakeRoot makes the group of --kubelet-arg=cgroup-root, as KubeletRoot returns it, in the
// hierarchies, which are of the given version of control groups. The kubelet refuses to
// start without it. Several nodes on one machine need one each.
func MakeRoot(ctx context.Context, hierarchies []string, root string, systemd bool, version int) error {
	if root == "" || root == "/" {
		return nil
	}
	var err error
	if systemd {
		err = makeSlice(ctx, hierarchies, root, version)
	} else {
		err = makeCgroup(hierarchies, root, version)
	}
	if err != nil {
		return fmt.Errorf("making cgroup root --kubelet-arg=cgroup-root=%s: %w", root, err)
	}
	return nil
}

// makeSlice makes systemd create the slice of a cgroup root, unless it exists. Starting it
// is enough: a slice needs no unit file. systemd gives it only the controllers that some
// unit has asked for, and the kubelet refuses a root without all that it wants.
func makeSlice(ctx context.Context, hierarchies []string, root string, version int) error {
	path := filepath.Dir(ForPods(root, true))
	if !existsIn(hierarchies, path) {
		if err := startSlice(ctx, filepath.Base(path)); err != nil {
			return err
		}
		if !existsIn(hierarchies, path) {
			return fmt.Errorf("systemd has started %s without a control group %s", filepath.Base(path), path)
		}
	}
	return makeCgroup(hierarchies, path, version)
}

func startSlice(ctx context.Context, unit string) error {
	out, err := exec.CommandContext(ctx, "systemctl", "start", "--", unit).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl start %s: %w: %s", unit, err, strings.Join(strings.Fields(string(out)), " "))
	}
	return nil
}

// existsIn reports whether any hierarchy has the group.
func existsIn(hierarchies []string, path string) bool {
	return slices.ContainsFunc(hierarchies, func(mount string) bool {
		_, err := os.Stat(filepath.Join(mount, path))
		return err == nil
	})
}

// Hierarchies returns where control groups are mounted, without the links that name a
// hierarchy twice (cpu -> cpu,cpuacct). On a hybrid system the unified one is among them:
// the kubelet makes groups there too.
func Hierarchies(mount string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(mount, "cgroup.controllers")); err == nil {
		return []string{mount}, nil
	}
	entries, err := os.ReadDir(mount)
	if err != nil {
		return nil, fmt.Errorf("looking for control groups: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, filepath.Join(mount, e.Name()))
		}
	}
	return out, nil
}

// Entries returns entries for where pods' groups are, and for each level down to there
// that does not exist yet.
func Entries(hierarchies []string, pods string) []ledger.Entry {
	var out []ledger.Entry
	for _, mount := range hierarchies {
		dir := mount
		for _, name := range strings.Split(strings.Trim(pods, "/"), "/") {
			dir = filepath.Join(dir, name)
			if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				out = append(out, ledger.Entry{Kind: ledger.Cgroup, Path: dir})
			}
		}
		out = append(out, ledger.Entry{Kind: ledger.PodCgroups, Path: dir})
	}
	return out
}

// makeCgroup makes the group in every hierarchy that has controllers.
func makeCgroup(hierarchies []string, root string, version int) error {
	for _, mount := range hierarchies {
		if version == 1 && filepath.Base(mount) == "unified" {
			continue
		}
		if err := makeBelow(mount, root, version); err != nil {
			return err
		}
	}
	return nil
}

// makeBelow makes root below mount, one level after the other: a group's
// controllers depend on its parent's.
func makeBelow(mount, root string, version int) error {
	dir := mount
	for _, name := range strings.Split(strings.Trim(root, "/"), "/") {
		parent := dir
		dir = filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := inherit(parent, dir, version); err != nil {
			return err
		}
	}
	return nil
}

// inherit gives a new group what the kernel does not: on version 1 a cpuset
// starts empty and takes no process, on version 2 controllers must be passed
// down explicitly.
func inherit(parent, dir string, version int) error {
	if version == 2 {
		available, err := os.ReadFile(filepath.Join(parent, "cgroup.controllers"))
		if err != nil {
			return err
		}
		controllers := strings.Fields(string(available))
		if len(controllers) == 0 {
			return nil // none to pass on, and the kernel refuses an empty list
		}
		enable := "+" + strings.Join(controllers, " +")
		return os.WriteFile(filepath.Join(parent, "cgroup.subtree_control"), []byte(enable), 0o644)
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || strings.TrimSpace(string(have)) != "" {
			continue // not the cpuset hierarchy, or filled already
		}
		value, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}
