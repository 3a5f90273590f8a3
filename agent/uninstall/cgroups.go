package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"brink/agent/cgroups"
	"brink/agent/ledger"
)

// cgroupLimit is how long the kernel may take to release groups whose
// processes have ended.
const cgroupLimit = 5 * time.Second

// removeCgroups removes our pods' groups, then those that were recorded as ours. Others may
// use these too by now, such as another kubelet on the same slice: all of our processes
// have ended, so where processes are left, the groups stay.
func (u *run) removeCgroups(ctx context.Context) {
	gone, left := u.removeGroups(ctx, trees(u.podCgroups()))
	var used []string
	unused := slices.DeleteFunc(u.made(ledger.Cgroup), func(root string) bool {
		others := processesIn(root)
		if len(others) == 0 {
			return false
		}
		if used = append(used, root); len(used) == 1 { // once is enough on version 1
			u.Kept(fmt.Sprintf("cgroup %s, in which others run, such as process %d", root, others[0]))
		}
		return true
	})
	gone2, left2 := u.removeGroups(ctx, trees(unused))
	gone = append(gone, gone2...)
	u.removed(len(gone), "cgroup", "cgroups")
	stopUnits(ctx, unitsOf(gone, slices.Concat(left, left2, trees(used))))
}

// removeGroups removes directories, children first. The kernel refuses to remove a group
// with processes and, for a moment, one whose processes have just ended.
func (u *run) removeGroups(ctx context.Context, dirs []string) (gone, left []string) {
	waitFor(ctx, cgroupLimit, func() bool {
		left = nil
		for _, dir := range dirs {
			if !isRemoved(dir) {
				left = append(left, dir)
			}
		}
		return len(left) == 0
	})
	for _, dir := range left {
		if err := syscall.Rmdir(dir); err != nil {
			u.failed(fmt.Errorf("removing cgroup %s: %w", dir, err))
		}
	}
	isLeft := func(dir string) bool { return slices.Contains(left, dir) }
	return slices.DeleteFunc(slices.Clone(dirs), isLeft), left
}

func isRemoved(dir string) bool {
	err := syscall.Rmdir(dir)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// podCgroups returns the groups of the known containers, and those of the node's pods
// without any.
func (u *run) podCgroups() []string {
	var out []string
	mounts, err := cgroups.Hierarchies(cgroups.Mount)
	u.failed(err)
	for _, b := range u.bundles {
		for _, mount := range mounts {
			out = append(out, filepath.Join(mount, b.podCgroup()))
		}
	}
	for _, root := range u.made(ledger.PodCgroups) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && u.isPodCgroup(filepath.Base(path)) {
				out = append(out, path)
				return fs.SkipDir
			}
			return nil
		})
	}
	return out
}

// isPodCgroup reports whether a name is that of a pod of ours.
func (u *run) isPodCgroup(name string) bool {
	for uid := range u.pods {
		if isPodCgroup(name, uid) {
			return true
		}
	}
	return false
}

// trees returns the directories and all below them, each once, children first.
func trees(roots []string) []string {
	var out []string
	for _, root := range roots {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, path)
			}
			return nil
		})
	}
	slices.Sort(out)
	out = slices.Compact(out)
	slices.Reverse(out)
	return out
}

// unitsOf returns the units of systemd whose groups are gone from every hierarchy.
func unitsOf(gone, stayed []string) []string {
	var units []string
	for _, dir := range gone {
		name := filepath.Base(dir)
		isUnit := strings.HasSuffix(name, ".slice") || strings.HasSuffix(name, ".scope")
		isSame := func(other string) bool { return filepath.Base(other) == name }
		if isUnit && !slices.ContainsFunc(stayed, isSame) {
			units = append(units, name)
		}
	}
	slices.Sort(units)
	return slices.Compact(units)
}

// stopUnits stops units in systemd, which would otherwise keep listing slices whose groups
// are gone. Stopping a slice kills what runs in it. That the groups could be removed proves
// that nothing does.
func stopUnits(ctx context.Context, units []string) {
	if len(units) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	_ = exec.CommandContext(ctx, "systemctl", append([]string{"stop", "--"}, units...)...).Run()
}
