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
	roots := []string{
		u.Layout.Run(),
		filepath.Join(u.Layout.ContainerdRoot(), "tmpmounts"),
	}
	if u.ownsKubeletDir() {
		roots = append(roots, u.Layout.Kubelet())
	} else {
		roots = append(roots, u.podDirs()...)
	}
	for i := range roots {
		roots[i] = resolve(roots[i])
	}
	points := mountsBelow(readMounts(), roots)
	if u.ownsKubeletDir() {
		points = append(points, selfBinds(resolve(u.Layout.Kubelet()))...)
	}
	count := 0
	for _, point := range points {
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

// readMounts lists the mount points of this namespace, in the kernel's order.
func readMounts() []string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return parseMounts(string(text))
}

// parseMounts takes the mount points out of /proc/self/mountinfo, see proc(5).
func parseMounts(mountinfo string) []string {
	var out []string
	for line := range strings.Lines(mountinfo) {
		if fields := strings.Fields(line); len(fields) > 4 {
			out = append(out, unescape(fields[4]))
		}
	}
	return out
}

// selfBinds returns dir once for each time it is mounted on itself. The kubelet
// does that where dir does not lie on a shared mount; a disk that the user
// mounted there shows its file system's root instead.
func selfBinds(dir string) []string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return parseSelfBinds(string(text), dir)
}

func parseSelfBinds(mountinfo, dir string) []string {
	var out []string
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		if len(fields) <= 4 || unescape(fields[4]) != dir {
			continue
		}
		if root := unescape(fields[3]); root != "/" && strings.HasSuffix(dir, root) {
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
