package network

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
)

// warnOfFirewalls names the chains that drop forwarded packets unless a rule of
// theirs lets them through. Whether one does is not known here, nor could a rule
// of ours overrule them (see the package comment). Rules of legacy iptables (not
// iptables-nft) are no nftables chains and cannot be seen.
func warnOfFirewalls(ctx context.Context, cfg Config) {
	chains, err := droppingChains(ctx)
	if err != nil {
		slog.Debug("looking for firewalls", "component", componentName, "error", err)
	}
	for _, c := range chains {
		slog.Warn(fmt.Sprintf("a firewall on this host drops forwarded packets by default: unless its rules let %v through, pods reach no other node and no outside", cfg.ClusterCIDRs),
			"component", componentName, "table", c.Family+" "+c.Table, "chain", c.Name)
	}
}

// nftChain is a chain as in libnftables-json(5).
type nftChain struct {
	Family, Table, Name, Hook, Policy string
}

// droppingChains are the base chains of the hook forward with the policy drop, in
// families that packets of pods pass.
func droppingChains(ctx context.Context) ([]nftChain, error) {
	out, err := exec.CommandContext(ctx, "nft", "--json", "list", "chains").Output()
	if err != nil {
		return nil, fmt.Errorf("listing nftables chains: %w", err)
	}
	return parseDroppingChains(out)
}

func parseDroppingChains(out []byte) ([]nftChain, error) {
	var list struct {
		Nftables []struct{ Chain *nftChain }
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("reading nftables chains: %w", err)
	}
	var dropping []nftChain
	for _, entry := range list.Nftables {
		c := entry.Chain
		if c == nil || c.Hook != "forward" || c.Policy != "drop" || c.Family == "inet" && c.Table == tableName {
			continue
		}
		switch c.Family {
		case "ip", "ip6", "inet":
			dropping = append(dropping, *c)
		}
	}
	return dropping, nil
}
