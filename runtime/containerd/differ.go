package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// syncedDiffer is the node's only differ, the plugin of containerd that unpacks layers.
// It is containerd's walking differ with a sync of the file system after each layer,
// before the layer counts as unpacked.
//
// Without the sync, a layer that was unpacked just before the power failed has empty
// files, while containerd, whose databases are synced, believes for ever that it is
// complete. containerd syncs only where the caller asks for it. The transfer service,
// which `ctr images import` uses, cannot ask, and in a user namespace the option does
// nothing. Done here, it holds for everything that unpacks. The sync comes after each
// layer and not after an import: a layer that is known as unpacked must be on the disk,
// and what a layer writes has to be written anyway. Blobs need nothing more, as the
// content store syncs each.
const syncedDiffer = "synced"

func init() {
	registry.Register(&plugin.Registration{
		Type:     plugins.DiffPlugin,
		ID:       syncedDiffer,
		Requires: []plugin.Type{plugins.MetadataPlugin, plugins.MountManagerPlugin},
		InitFn:   newDiffer,
	})
}

// differ compares as containerd does, and applies with a sync.
type differ struct {
	diff.Comparer
	diff.Applier
}

func newDiffer(ic *plugin.InitContext) (any, error) {
	db, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	mounts, err := ic.GetSingle(plugins.MountManagerPlugin)
	if err != nil {
		return nil, err
	}
	ic.Meta.Platforms = append(ic.Meta.Platforms, platforms.DefaultSpec())
	content := db.(*metadata.DB).ContentStore()
	return differ{
		Comparer: walking.NewWalkingDiff(content),
		Applier:  syncedApplier{apply.NewFileSystemApplierWithMountManager(content, mounts.(mount.Manager))},
	}, nil
}

type syncedApplier struct{ diff.Applier }

// Apply unpacks a layer and syncs it. containerd's own sync, if asked for, is left out:
// once is enough.
func (a syncedApplier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	applied, err := a.Applier.Apply(ctx, desc, mounts, append(opts, diff.WithSyncFs(false))...)
	if err != nil {
		return applied, err
	}
	if err := syncMounts(mounts); err != nil {
		return applied, fmt.Errorf("writing layer %s to the disk: %w", desc.Digest, err)
	}
	return applied, nil
}

// syncMounts syncs the file system to which a layer was unpacked.
func syncMounts(mounts []mount.Mount) error {
	if len(mounts) == 0 {
		return errors.New("the snapshotter names no place for it")
	}
	dir, err := os.Open(writtenDir(mounts[len(mounts)-1]))
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}

// writtenDir returns the directory that gets what is written to a mount: an overlay's
// upper directory, else its source.
func writtenDir(m mount.Mount) string {
	for _, option := range m.Options {
		if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
			return dir
		}
	}
	return m.Source
}
