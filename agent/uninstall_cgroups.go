package agent

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
	"syscall"
	"time"
)

// cgroupLimit is how long the kernel may take to let go of groups whose
// processes have ended.
const cgroupLimit = 5 * time.Second

// removeCgroups removes our pods' groups and those that were written down as
// ours. A group with processes stays: ours have ended.
func (u *uninstall) removeCgroups(ctx context.Context) {
	dirs := trees(append(u.podCgroups(), u.made(madeCgroup)...))
	before := len(dirs)
	stopUnits(ctx, dirs)
	waitFor(ctx, cgroupLimit, func() bool {
		dirs = slices.DeleteFunc(dirs, isRemoved)
		return len(dirs) == 0
	})
	u.removed(before-len(dirs), "cgroup", "cgroups")
	for _, dir := range dirs {
		u.failed(fmt.Errorf("removing cgroup %s: %w", dir, os.Remove(dir)))
	}
}

func isRemoved(dir string) bool {
	err := syscall.Rmdir(dir)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// podCgroups are those of the containers that are known, and those of pods that
// only the kubelet's directory knows any more.
func (u *uninstall) podCgroups() []string {
	var out []string
	mounts, err := hierarchies(cgroupMount)
	u.failed(err)
	for _, b := range u.bundles {
		for _, mount := range mounts {
			out = append(out, filepath.Join(mount, b.podCgroup()))
		}
	}
	uids := u.podUIDs()
	for _, root := range u.made(podsIn) {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			isOurs := func(uid string) bool { return isPodCgroup(filepath.Base(path), uid) }
			if err == nil && d.IsDir() && slices.ContainsFunc(uids, isOurs) {
				out = append(out, path)
				return fs.SkipDir
			}
			return nil
		})
	}
	return out
}

// trees lists the directories with all below them, each once, children first.
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

// stopUnits tells systemd, which otherwise goes on to list slices whose groups
// have gone. What it cannot do is done by removing the groups.
func stopUnits(ctx context.Context, dirs []string) {
	var units []string
	for _, dir := range dirs {
		if name := filepath.Base(dir); strings.HasSuffix(name, ".slice") || strings.HasSuffix(name, ".scope") {
			units = append(units, name)
		}
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil || len(units) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, killLimit)
	defer cancel()
	_ = exec.CommandContext(ctx, "systemctl", append([]string{"stop", "--"}, units...)...).Run()
}
