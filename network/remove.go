package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"brink/internal/atomicfile"
	"brink/internal/removetree"
)

// Remove takes away what New's component and the CNI plugins made on this host:
// the ways to peers and the VXLAN device, the bridge and the pod links still
// attached to it, our nftables table, our pods' host ports, the CNI configuration
// and leases. What is gone already is
// no error. Kernel settings are put back by who was told of them, see Config.Changing. It
// is meant for uninstalling, after the pods are gone.
//
// Only Bridge, VXLANDevice, CNIConfDir and CNIStateDir of cfg are used.
func Remove(cfg Config) error {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(
		removePeers(cfg),
		removeBridge(cfg.Bridge),
		removeTable(ctx),
		removeHostPorts(ctx, cfg), // knows its own by the leases, so before them
		removeFiles(cfg),
	)
}

// removePeers does what the backend none does to leftovers.
func removePeers(cfg Config) error {
	stack, err := openNetstack()
	if err != nil {
		return err
	}
	defer stack.close()
	k := newPeerKeeper(Config{Backend: None, VXLANDevice: cfg.VXLANDevice}, nil)
	k.kernel = stack
	_, err = k.look(wish{})
	return err
}

func removeFiles(cfg Config) error {
	if err := os.Remove(filepath.Join(cfg.CNIConfDir, conflistName)); err == nil {
		if err := atomicfile.SyncDir(cfg.CNIConfDir); err != nil {
			return fmt.Errorf("removing the CNI configuration: %w", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the CNI configuration: %w", err)
	}
	if _, err := removetree.Sift(cfg.CNIStateDir, ofState); err != nil {
		return fmt.Errorf("removing address leases: %w", err)
	}
	if err := unix.Rmdir(cfg.CNIStateDir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("removing address leases: %w", err)
	}
	return nil
}

// ofState tells what in CNIStateDir is ours and the host-local plugin's (v1.9.1): an
// address a file. The rest is somebody's.
func ofState(rel string) removetree.Verdict {
	dir, base := filepath.Split(rel)
	_, err := netip.ParseAddr(base)
	switch {
	case rel == networkName:
		return removetree.Enter
	case rel == foreignHostPorts,
		dir == networkName+"/" && (err == nil || base == "lock" || strings.HasPrefix(base, "last_reserved_ip.")):
		return removetree.Remove
	}
	return removetree.Keep
}

func removeBridge(name string) error {
	bridge, err := netlink.LinkByName(name)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding bridge %s: %w", name, err)
	}
	if bridge.Type() != "bridge" {
		return fmt.Errorf("link %s is a %s, not the bridge that brink makes: left alone", name, bridge.Type())
	}
	links, err := allLinks()
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
	if err := netlink.LinkDel(link); err != nil && !isGone(err) {
		return fmt.Errorf("removing link %s: %w", link.Attrs().Name, err)
	}
	return nil
}

func isGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, os.ErrNotExist)
}

func allLinks() ([]netlink.Link, error) { return complete(netlink.LinkList) }

func removeTable(ctx context.Context) error {
	nft, err := openTable(knftables.InetFamily, tableName)
	if err != nil {
		return fmt.Errorf("removing nftables rules: %w", err)
	}
	return deleteTable(ctx, nft, "inet "+tableName)
}

func deleteTable(ctx context.Context, nft knftables.Interface, name string) error {
	tx := nft.NewTransaction()
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil && !knftables.IsNotFound(err) {
		return fmt.Errorf("removing nftables table %s: %w", name, err)
	}
	return nil
}

// leaseholders returns the ids of the containers that hold an address. The
// host-local plugin keeps a file for each address, its first line the id.
func leaseholders(dir string) (map[string]bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	ids := map[string]bool{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // its pod went in the meantime
		}
		if err != nil {
			return nil, err
		}
		id, _, _ := strings.Cut(string(data), "\n")
		ids[strings.TrimSpace(id)] = true
	}
	delete(ids, "")
	return ids, nil
}
