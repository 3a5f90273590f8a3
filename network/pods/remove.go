package pods

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/internal/removetree"
	"brink/network/rtnl"
)

// Remove removes what the CNI plugins made on this host: the bridge and the pod links
// that are still attached to it, host ports of brink's pods, the CNI configuration and
// leases. What is gone already is no error. Only Bridge, ConfDir and StateDir of cfg are used.
func Remove(ctx context.Context, cfg Config) error {
	return errors.Join(
		removeBridge(cfg.Bridge),
		removeHostPorts(ctx, cfg), // before the leases, which say whose they are
		removeFiles(cfg),
	)
}

func removeFiles(cfg Config) error {
	if err := os.Remove(filepath.Join(cfg.ConfDir, conflistName)); err == nil {
		if err := atomicfile.SyncDir(cfg.ConfDir); err != nil {
			return fmt.Errorf("removing the CNI configuration: %w", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the CNI configuration: %w", err)
	}
	if _, err := removetree.Contents(cfg.StateDir, stateVerdict); err != nil {
		return fmt.Errorf("removing address leases: %w", err)
	}
	if err := unix.Rmdir(cfg.StateDir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("removing address leases: %w", err)
	}
	return nil
}

// stateVerdict has those files below StateDir removed that are brink's and the host-local
// plugin's (v1.9.1), which keeps a file for each address. The rest is somebody's.
func stateVerdict(rel string) removetree.Verdict {
	dir, base := filepath.Split(rel)
	_, err := netip.ParseAddr(base)
	switch {
	case rel == networkName:
		return removetree.Enter
	case rel == foreignHostPorts,
		dir == networkName+"/" && (err == nil || base == "lock" || strings.HasPrefix(base, layout.LastReserved)):
		return removetree.Remove
	}
	return removetree.Keep
}

func removeBridge(name string) error {
	bridge, err := netlink.LinkByName(name)
	if rtnl.IsGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding bridge %s: %w", name, err)
	}
	if bridge.Type() != "bridge" {
		return fmt.Errorf("link %s is a %s, not the bridge that brink makes: left alone", name, bridge.Type())
	}
	links, err := rtnl.Links()
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	for _, link := range links {
		if link.Attrs().MasterIndex == bridge.Attrs().Index && link.Type() == "veth" {
			err = errors.Join(err, removeLink(link))
		}
	}
	return errors.Join(err, removeLink(bridge))
}

func removeLink(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !rtnl.IsGone(err) {
		return fmt.Errorf("removing link %s: %w", link.Attrs().Name, err)
	}
	return nil
}
