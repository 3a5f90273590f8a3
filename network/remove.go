package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"sigs.k8s.io/knftables"

	"brink/internal/atomicfile"
)

// Remove takes away what New's component and the CNI plugins made on this host:
// the bridge and the pod links still attached to it, our nftables table, our
// pods' host ports, the CNI configuration and leases. What is gone already is
// no error. Kernel settings stay, for others may have come to rely on them. It
// is meant for uninstalling, after the pods are gone.
//
// Only Bridge, CNIConfDir and CNIStateDir of cfg are used.
func Remove(cfg Config) error {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(
		removeBridge(cfg.Bridge),
		removeTable(ctx),
		removeHostPorts(ctx, cfg), // knows its own by the leases, so before them
		removeFiles(cfg),
	)
}

func removeFiles(cfg Config) error {
	if err := os.Remove(filepath.Join(cfg.CNIConfDir, conflistName)); err == nil {
		if err := atomicfile.SyncDir(cfg.CNIConfDir); err != nil {
			return fmt.Errorf("removing the CNI configuration: %w", err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the CNI configuration: %w", err)
	}
	if err := os.RemoveAll(cfg.CNIStateDir); err != nil {
		return fmt.Errorf("removing address leases: %w", err)
	}
	return nil
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

// allLinks asks again when links came or went during the answer.
func allLinks() (links []netlink.Link, err error) {
	for range 10 {
		if links, err = netlink.LinkList(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return links, err
}

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

// The portmap plugin's nftables backend (v1.9.1) keeps one table for each of ip
// and ip6, shared by every CNI network on the host, with a rule for every port
// in these chains and the container's id as the rule's comment.
const hostPortTable = "cni_hostport"

var hostPortChains = []string{"hostports", "hostip_hostports", "masquerading"}

// removeHostPorts deletes the port rules of containers that have a lease from
// us, and the table once nobody has a rule in it: the plugin makes it anew with
// the next port.
func removeHostPorts(ctx context.Context, cfg Config) error {
	ours, err := leaseholders(filepath.Join(cfg.CNIStateDir, networkName))
	if err != nil {
		return fmt.Errorf("reading address leases: %w", err)
	}
	for _, family := range []knftables.Family{knftables.IPv4Family, knftables.IPv6Family} {
		nft, openErr := openTable(family, hostPortTable)
		if openErr != nil {
			return fmt.Errorf("removing host ports: %w", openErr)
		}
		err = errors.Join(err, removeHostPortsOf(ctx, nft, family, ours))
	}
	return err
}

func removeHostPortsOf(ctx context.Context, nft knftables.Interface, family knftables.Family, ours map[string]bool) error {
	tx := nft.NewTransaction()
	others := 0
	for _, chain := range hostPortChains {
		rules, err := nft.ListRules(ctx, chain)
		if err != nil && !knftables.IsNotFound(err) {
			return fmt.Errorf("listing host ports: %w", err)
		}
		for _, rule := range rules {
			if rule.Comment != nil && ours[*rule.Comment] {
				tx.Delete(rule)
			} else {
				others++
			}
		}
	}
	if others == 0 {
		return deleteTable(ctx, nft, string(family)+" "+hostPortTable)
	}
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("removing host ports: %w", err)
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
		if err != nil {
			return nil, err
		}
		id, _, _ := strings.Cut(string(data), "\n")
		ids[strings.TrimSpace(id)] = true
	}
	delete(ids, "")
	return ids, nil
}
