package images

import (
	"context"

	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/lifecycle"
)

// Snapshotter returns the name of the snapshotter that works on the file system of
// containerd's root: overlayfs, which shares layers, or native, which copies them. The
// answer changes when the data moves to another file system. Both are loaded, so running
// containers keep theirs, and the CRI unpacks an image for the other one when it is next
// used.
func Snapshotter(ctx context.Context, l layout.Layout) string {
	root := l.ContainerdRoot()
	err := host.OverlayUsable(root)
	if err == nil {
		return "overlayfs"
	}
	lifecycle.Logger(ctx).Warn("overlayfs cannot be used, images are copied for each container: slower, and needs much more space",
		"dir", root, "error", err)
	return "native"
}
