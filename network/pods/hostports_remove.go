package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/network/nftables"
)

// The portmap plugin's nftables backend (v1.9.1) keeps one table for each of ip
// and ip6, shared by every CNI network on the host, with a rule for every port
// in these chains and the container's id as the rule's comment.
const (
	hostPortTable = "cni_hostport"
	hostPortChain = "hostports"
)

var (
	hostPortChains   = []string{hostPortChain, "hostip_hostports", "masquerading"}
	hostPortFamilies = []knftables.Family{knftables.IPv4Family, knftables.IPv6Family}
)

// foreignHostPorts is the file below StateDir with the families whose table was there
// before the node's first start: it is not brink's to remove.
const foreignHostPorts = layout.ForeignHostPorts

// recordForeignHostPorts writes the file foreignHostPorts at the first start.
func recordForeignHostPorts(ctx context.Context, cfg Config) error {
	path := filepath.Join(cfg.StateDir, foreignHostPorts)
	for _, known := range []string{path, filepath.Join(cfg.ConfDir, conflistName)} {
		if _, err := os.Stat(known); err == nil {
			return nil
		}
	}
	var found []string
	for _, family := range hostPortFamilies {
		nft, err := nftables.Open(family, hostPortTable)
		if err != nil {
			return err
		}
		if _, err := nft.ListRules(ctx, ""); err == nil {
			found = append(found, string(family))
		} else if !knftables.IsNotFound(err) {
			return fmt.Errorf("looking for nftables table %s %s: %s", family, hostPortTable, nftables.OneLine(err))
		}
	}
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return fmt.Errorf("making the directory of address leases: %w", err)
	}
	return atomicfile.Write(path, []byte(strings.Join(found, "\n")), 0o644)
}

// removeHostPorts deletes the port rules of containers that have a lease of brink's, and
// the table when brink was there first and nobody has a rule in it. For somebody who
// needs it the plugin makes it anew with the next port.
func removeHostPorts(ctx context.Context, cfg Config) error {
	ours, err := leaseholders(cfg.leases())
	if err != nil {
		return fmt.Errorf("reading address leases: %w", err)
	}
	foreign, err := os.ReadFile(filepath.Join(cfg.StateDir, foreignHostPorts))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	for _, family := range hostPortFamilies {
		nft, openErr := nftables.Open(family, hostPortTable)
		if openErr != nil {
			return fmt.Errorf("removing host ports: %w", openErr)
		}
		others, removeErr := removeHostPortsOf(ctx, nft, ours)
		if removeErr == nil && others == 0 && !contains(foreign, family) {
			removeErr = nftables.RemoveTable(ctx, family, hostPortTable)
		}
		err = errors.Join(err, removeErr)
	}
	return err
}

func contains(lines []byte, family knftables.Family) bool {
	return slices.Contains(strings.Split(string(lines), "\n"), string(family))
}

// removeHostPortsOf returns how many rules of others there are.
func removeHostPortsOf(ctx context.Context, nft knftables.Interface, ours map[string]bool) (others int, err error) {
	tx := nft.NewTransaction()
	for _, chain := range hostPortChains {
		rules, err := nft.ListRules(ctx, chain)
		if err != nil && !knftables.IsNotFound(err) {
			return 0, fmt.Errorf("listing host ports: %w", err)
		}
		for _, rule := range rules {
			if rule.Comment != nil && ours[*rule.Comment] {
				tx.Delete(rule)
			} else {
				others++
			}
		}
	}
	if err := nft.Run(ctx, tx); err != nil {
		return 0, fmt.Errorf("removing host ports: %w", err)
	}
	return others, nil
}
