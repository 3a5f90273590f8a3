package network

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"time"

	"brink/internal/once"
)

// firewallsEvery is how often at most the rules of others are listed, which takes a
// process.
const firewallsEvery = 5 * time.Minute

// firewalls names the chains that drop forwarded packets unless a rule of theirs
// lets them through. Brink cannot let them through instead, see the package comment,
// nor tell whether such a rule does.
type firewalls struct {
	log        *slog.Logger
	generation uint32 // of the rules at the last check
	checkedAt  time.Time
	dropping   []nftChain // at the last check
	named      once.Reporter
}

// check logs chains that were not there the last time, as when a firewall is started
// after brink. It does nothing when no rules have changed since, or when it was called a
// moment ago.
func (f *firewalls) check(ctx context.Context, cfg Config, generation uint32) {
	if !f.checkedAt.IsZero() && (generation == f.generation || time.Since(f.checkedAt) < firewallsEvery) {
		return
	}
	f.checkedAt, f.generation = time.Now(), generation
	chains, err := droppingChains(ctx)
	if err != nil {
		f.log.Debug("looking for firewalls", "error", err)
		return
	}
	for _, c := range f.dropping {
		if !slices.Contains(chains, c) {
			f.named.Cleared(c.String())
		}
	}
	for _, c := range chains {
		if f.named.Changed(c.String(), "") {
			f.log.Warn(fmt.Sprintf("a firewall on this host drops forwarded packets by default: unless its rules let %v through, pods reach no other node and no outside", cfg.ClusterCIDRs),
				"table", c.Family+" "+c.Table, "chain", c.Name)
		}
	}
	f.dropping = chains
}

// nftChain is a chain as in libnftables-json(5).
type nftChain struct {
	Family, Table, Name, Hook, Policy string
}

func (c nftChain) String() string { return c.Family + " " + c.Table + " " + c.Name }

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
