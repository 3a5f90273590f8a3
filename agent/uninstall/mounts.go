package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"brink/internal/datadir"
	"brink/internal/layout"
)

// umountNoFollow is UMOUNT_NOFOLLOW of linux/fs.h: what a pod has put in the
// place of a directory is not followed.
const umountNoFollow = 8

// busyLimit is how long a mount may be busy before it is only detached.
const busyLimit = 2 * time.Second

// removeMounts unmounts what containerd, its shims and the kubelet have mounted.
// A disk that the user has mounted into the data directory is none of it.
func (u *run) removeMounts() {
	kubelet := datadir.Resolve(u.Layout.Kubelet())
	roots := []string{datadir.Resolve(u.Layout.TempMounts())}
	entries, _ := os.ReadDir(u.Layout.ContainerdState())
	for _, e := range entries {
		path := filepath.Join(u.Layout.ContainerdState(), e.Name())
		if rel, err := filepath.Rel(u.Layout.Run(), path); err == nil && layout.RunName(rel) == layout.Tree {
			roots = append(roots, datadir.Resolve(path))
		}
	}
	for uid := range u.pods {
		roots = append(roots, filepath.Join(kubelet, "pods", uid))
	}
	table := readMountinfo()
	var points []string
	if u.ownsKubelet {
		if !u.sharesKubelet {
			roots = append(roots, filepath.Join(kubelet, layout.MountedVolumes))
		}
		points = selfBinds(table, kubelet)
	}
	count := 0
	for _, point := range append(mountsBelow(pointsOf(table), roots), points...) {
		if err := unmount(point); err != nil {
			u.failed(fmt.Errorf("unmounting %s: %w", point, err))
			continue
		}
		count++
	}
	u.removed(count, "mount", "mounts")
}

func unmount(point string) error {
	var err error
	waitFor(context.Background(), busyLimit, func() bool {
		err = syscall.Unmount(point, umountNoFollow)
		return !errors.Is(err, syscall.EBUSY)
	})
	if errors.Is(err, syscall.EBUSY) {
		err = syscall.Unmount(point, umountNoFollow|syscall.MNT_DETACH)
	}
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOENT) {
		return nil // went together with another one
	}
	return err
}

// mount is a line of /proc/self/mountinfo, see proc(5).
type mount struct {
	id, parent string
	device     string
	root       string // of the file system, what is mounted
	point      string
}

// readMountinfo lists the mounts of this namespace, in the kernel's order.
func readMountinfo() []mount {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return parseMountinfo(string(text))
}

func parseMountinfo(text string) []mount {
	var out []mount
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 4 {
			out = append(out, mount{f[0], f[1], f[2], unescape(f[3]), unescape(f[4])})
		}
	}
	return out
}

func pointsOf(table []mount) []string {
	var out []string
	for _, m := range table {
		out = append(out, m.point)
	}
	return out
}

// selfBinds returns dir once for each time it is mounted on itself, which the
// kubelet does where dir does not lie on a shared mount. The mount below shows the
// same directory of the same file system at this place, whatever part of the file
// system that one is: a disk, a directory bound there, a subvolume.
func selfBinds(table []mount, dir string) []string {
	byID := map[string]mount{}
	for _, m := range table {
		byID[m.id] = m
	}
	var out []string
	for _, m := range table {
		below, ok := byID[m.parent]
		if !ok || m.point != dir || m.device != below.device {
			continue
		}
		rel, err := filepath.Rel(below.point, dir)
		if err == nil && filepath.Join(below.root, rel) == m.root {
			out = append(out, dir)
		}
	}
	return out
}

// unescape undoes the kernel's \040 for a space and the like.
func unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+4 <= len(text) {
			if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

// mountsBelow selects the mounts strictly below the roots in the order in which
// they can be unmounted: deepest first, and of several at one place the last
// first.
func mountsBelow(points, roots []string) []string {
	var out []string
	for _, point := range slices.Backward(points) {
		isIn := func(root string) bool { return point != root && layout.IsBelow(point, root) }
		if slices.ContainsFunc(roots, isIn) {
			out = append(out, point)
		}
	}
	depth := func(path string) int { return strings.Count(path, "/") }
	slices.SortStableFunc(out, func(a, b string) int { return depth(b) - depth(a) })
	return out
}
