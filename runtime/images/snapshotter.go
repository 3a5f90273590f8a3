package images

import (
	"log/slog"

	"brink/internal/host"
)

// Snapshotter returns the name of the snapshotter that works on root's
// file system: overlayfs, which shares layers, or native, which copies them.
// When the answer changes, because the data moved to another file system, both
// are loaded still, so running containers keep theirs, and the CRI unpacks an
// image again for the other when it is next used.
func Snapshotter(root string) string {
	err := host.OverlayUsable(root)
	if err == nil {
		return "overlayfs"
	}
	slog.Warn("overlayfs cannot be used, images are copied for each container: slower, and needs much more space",
		"component", "containerd", "dir", root, "error", err)
	return "native"
}
