package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"

	"brink/agent/ledger"
	"brink/internal/datadir"
	"brink/internal/layout"
)

// umountNoFollow is UMOUNT_NOFOLLOW of linux/fs.h: a link that a pod has put in the
// place of a directory is not followed.
const umountNoFollow = 8

// busyLimit is how long a mount may be busy before it is detached instead.
const busyLimit = 2 * time.Second

// removeMounts unmounts what containerd, its shims, the kubelet and pods have mounted. It
// leaves and names what others have mounted in the node's directories, such as a disk of
// the user's.
func (u *run) removeMounts() {
	table, err := mountinfo.GetMounts(nil)
	if err != nil {
		u.failed(fmt.Errorf("reading the table of mounts: %w", err))
		return
	}
	kubelet := datadir.Resolve(u.Layout.Kubelet())
	count := 0
	for _, point := range mountsBelow(pointsOf(table), u.mountRoots(kubelet)) {
		whose := u.whoseMount(kubelet, point)
		if whose == byOthers {
			u.keepMount(point)
			continue
		}
		if err := unmount(point); err != nil {
			u.failed(fmt.Errorf("unmounting %s: %w", point, err))
			continue
		}
		if whose == inVolume {
			u.Removed("what was mounted in a pod's volume at " + point)
			continue
		}
		count++
	}
	if u.ownsKubelet {
		count += u.removeSelfBinds(kubelet)
	}
	u.removed(count, "mount", "mounts")
}

// keepMount names a mount of somebody else, once.
func (u *run) keepMount(point string) {
	if !slices.Contains(u.keptMounts, point) {
		u.keptMounts = append(u.keptMounts, point)
		u.Kept(point + ", which somebody else has mounted")
	}
}

// mountRoots returns the directories below which the node mounts.
func (u *run) mountRoots(kubelet string) []string {
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
	if u.ownsKubelet && !u.sharesKubelet {
		roots = append(roots, filepath.Join(kubelet, layout.MountedVolumes))
	}
	return roots
}

// removeSelfBinds unmounts the kubelet's directory as often as the kubelet has mounted it
// on itself, and returns how often. What the user has mounted on itself lies below that and
// stays. So does a mount on itself in which somebody else has mounted something: detaching
// it would take that along.
func (u *run) removeSelfBinds(kubelet string) (count int) {
	theirs := ledger.UsersSelfBinds(u.Layout)
	for {
		table, err := mountinfo.GetMounts(nil)
		if err != nil {
			u.failed(fmt.Errorf("reading the table of mounts: %w", err))
			return count
		}
		left := ledger.SelfBinds(table, kubelet)
		inside := mountsOn(table, kubelet)
		if left > theirs && len(inside) == 0 {
			if err := unmount(kubelet); err != nil {
				u.failed(fmt.Errorf("unmounting %s: %w", kubelet, err))
				return count
			}
			if count++; count < selfBindsMost {
				continue
			}
		}
		if u.keepsSelfBinds = left > 0; left > theirs {
			for _, point := range inside {
				u.keepMount(point)
			}
			u.Kept(kubelet + ", mounted on itself: what somebody else has mounted in it depends on that")
		} else if left > 0 {
			u.Kept(kubelet + ", which somebody else has mounted on itself")
		}
		return count
	}
}

// selfBindsMost ends a loop over mounts that do not go.
const selfBindsMost = 100

// mountsOn returns the mounts that lie directly on the uppermost mount at dir.
func mountsOn(table []*mountinfo.Info, dir string) []string {
	top := -1
	for _, m := range table {
		if m.Mountpoint == dir {
			top = m.ID // the last is the uppermost
		}
	}
	var out []string
	for _, m := range table {
		if m.Parent == top && m.ID != top {
			out = append(out, m.Mountpoint)
		}
	}
	return out
}

// mounter tells who has made a mount.
type mounter int

const (
	byNode   mounter = iota
	inVolume         // by a pod through a volume that propagates its mounts, or by somebody
	byOthers
)

// whoseMount decides, by where a mount in a pod's directory lies, who has made it. The kubelet
// mounts at volumes/PLUGIN/NAME, for CSI with "mount" at the end, volumeDevices/PLUGIN/NAME
// and volume-subpaths/VOLUME/CONTAINER/NUMBER. A mount inside a volume has to go for the
// volume to go; it is named, because nothing shows who has made it. All other mounts are
// others'.
func (u *run) whoseMount(kubelet, point string) mounter {
	rel, err := filepath.Rel(filepath.Join(kubelet, "pods"), point)
	if err != nil || !filepath.IsLocal(rel) {
		return byNode
	}
	parts := strings.Split(rel, "/")[1:]
	depth := map[string]int{"volumes": 3, "volumeDevices": 3, "volume-subpaths": 4}[first(parts)]
	switch {
	case depth == 0 || len(parts) < depth:
		return byOthers
	case len(parts) == depth, len(parts) == depth+1 && parts[0] == "volumes" && parts[depth] == "mount":
		return byNode
	}
	return inVolume
}

func first(parts []string) string {
	if len(parts) == 0 {
		return ""
	}
	return parts[0]
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

func pointsOf(table []*mountinfo.Info) []string {
	var out []string
	for _, m := range table {
		out = append(out, m.Mountpoint)
	}
	return out
}

// mountsBelow returns the mounts strictly below the roots in the order in which
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
