package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"

	"brink/network/nftables"
)

const tableName = "brink"

// ruleset writes the table "inet brink" and remembers how it was written.
type ruleset struct {
	log   *slog.Logger
	nft   knftables.Interface
	sets  []*knftables.Set
	rules []*knftables.Rule

	applied    bool
	generation uint32 // of the kernel's whole ruleset at the last check
	has        tableListing
	handle     uint64 // of the table
}

func openRuleset(cfg Config, log *slog.Logger) (*ruleset, error) {
	nft, err := nftables.Open(knftables.InetFamily, tableName)
	if err != nil {
		return nil, err
	}
	return &ruleset{log: log, nft: nft, sets: guardSets(cfg), rules: wantedRules(cfg)}, nil
}

// wantedRules returns all rules of the table. Those made here give packets that leave the
// cluster the node's address, since nobody outside knows a route back to a pod. Within
// the cluster pods see each other's own addresses. Multicast is left alone, as it has no
// answer to translate back. Packets that stay on the bridge pass here too (see
// applySettings) and keep their address whatever their destination is.
func wantedRules(cfg Config) []*knftables.Rule {
	rules := append(guardLoopback(cfg), guardTunnel(cfg)...)
	for _, f := range families {
		if !cfg.has(f) {
			continue
		}
		pods := f.of(cfg.ClusterCIDRs)
		rules = append(rules, &knftables.Rule{
			Chain: "postrouting",
			Rule: knftables.Concat(
				f.match, "saddr", anonymousSet(pods),
				f.match, "daddr", "!=", anonymousSet(append(slices.Clone(pods), f.multicast)),
				"oifname", "!=", fmt.Sprintf("%q", cfg.bridgeName()),
				// As kube-proxy does: without it, pods that talk to one server at
				// the same instant race for the same source port and lose packets.
				"masquerade", "fully-random",
			),
			Comment: knftables.PtrTo("pods leaving the cluster"),
		})
	}
	return rules
}

// guardLoopback keeps pods from reaching what listens on the host's loopback only.
// The portmap plugin sets route_localnet on the bridge with the first pod that
// has a hostPort, so that the port answers on the host's loopback too; from then
// on the kernel takes packets for, and from, 127.0.0.0/8 off the bridge
// (CVE-2020-8558). The rules come before all translation: at that point the answer
// to a call from the host's loopback is still addressed to the bridge, and passes.
// IPv6 has no such setting.
func guardLoopback(cfg Config) []*knftables.Rule {
	var rules []*knftables.Rule
	for _, side := range []string{"saddr", "daddr"} {
		rules = append(rules, &knftables.Rule{
			Chain:   "prerouting",
			Rule:    knftables.Concat("iifname", fmt.Sprintf("%q", cfg.bridgeName()), "ip", side, "127.0.0.0/8", "drop"),
			Comment: knftables.PtrTo("pods do not reach the host's loopback"),
		})
	}
	return rules
}

// anonymousSet writes prefixes as an anonymous nftables set.
func anonymousSet(prefixes []netip.Prefix) string {
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return "{ " + strings.Join(texts, ", ") + " }"
}

// baseChains are the chains of the table. Those without rules are left out.
var baseChains = []*knftables.Chain{
	{Name: "prerouting", Type: knftables.PtrTo(knftables.FilterType), Hook: knftables.PtrTo(knftables.PreroutingHook), Priority: knftables.PtrTo(knftables.RawPriority)},
	{Name: "output", Type: knftables.PtrTo(knftables.FilterType), Hook: knftables.PtrTo(knftables.OutputHook), Priority: knftables.PtrTo(knftables.RawPriority)},
	{Name: "input", Type: knftables.PtrTo(knftables.FilterType), Hook: knftables.PtrTo(knftables.InputHook), Priority: knftables.PtrTo(knftables.FilterPriority)},
	{Name: "forward", Type: knftables.PtrTo(knftables.FilterType), Hook: knftables.PtrTo(knftables.ForwardHook), Priority: knftables.PtrTo(knftables.FilterPriority)},
	{Name: "postrouting", Type: knftables.PtrTo(knftables.NATType), Hook: knftables.PtrTo(knftables.PostroutingHook), Priority: knftables.PtrTo(knftables.SNATPriority)},
	{Name: guardChain},
}

// reconcile writes the table unless it is known to be as it was written last. The
// members of its sets are in order.
func (r *ruleset) reconcile(ctx context.Context, members []member) error {
	if !r.applied {
		return r.apply(ctx, members)
	}
	generation, err := nftables.Generation()
	if err != nil {
		return err
	}
	if generation != r.generation {
		now, err := listOwnTable(ctx)
		if err != nil {
			return err
		}
		if !slices.Equal(now.handles, r.has.handles) || !slices.Equal(now.members, r.has.members) {
			r.log.Warn("nftables rules were changed by someone else, restoring them", "table", "inet "+tableName)
			return r.apply(ctx, members)
		}
		r.generation = generation
	}
	if !slices.Equal(members, r.has.members) && len(r.sets) > 0 {
		return r.updateSets(ctx, members)
	}
	return nil
}

// apply replaces the whole table in one transaction: no packet sees half of it,
// and translations in progress live in the connection table, not here.
func (r *ruleset) apply(ctx context.Context, members []member) error {
	tx := r.nft.NewTransaction()
	table := &knftables.Table{Comment: knftables.PtrTo("pod network of brink")}
	tx.Add(&knftables.Table{}) // so that the deletion finds one
	tx.Delete(&knftables.Table{})
	tx.Add(table)
	for _, set := range r.sets {
		tx.Add(set)
	}
	if len(r.sets) > 0 {
		for _, m := range members {
			tx.Add(m.element())
		}
	}
	for _, chain := range baseChains {
		if slices.ContainsFunc(r.rules, func(rule *knftables.Rule) bool { return rule.Chain == chain.Name }) {
			tx.Add(chain)
		}
	}
	for _, rule := range r.rules {
		tx.Add(rule)
	}
	return r.write(ctx, tx)
}

// updateSets changes the members of sets and nothing else: packets under way to a
// thousand peers must not notice one that comes.
func (r *ruleset) updateSets(ctx context.Context, members []member) error {
	tx := r.nft.NewTransaction()
	for _, m := range members {
		if !slices.Contains(r.has.members, m) {
			tx.Add(m.element())
		}
	}
	for _, m := range r.has.members {
		if !slices.Contains(members, m) {
			tx.Delete(m.element())
		}
	}
	return r.write(ctx, tx)
}

// write runs a transaction and records the table as it is then. The generation is read
// before the table, so that a change after it is seen at the next check. A change before
// it, right after the table was written, shows in the number of rules.
func (r *ruleset) write(ctx context.Context, tx *knftables.Transaction) error {
	r.applied = false
	if err := r.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("writing nftables table inet %s: %s", tableName, nftables.OneLine(err))
	}
	generation, err := nftables.Generation()
	if err != nil {
		return err
	}
	// A table never gives a handle twice, so equal handles are equal rules, unless
	// somebody makes a table of the same name and number of rules, as when a dump of this
	// one is restored.
	has, err := listOwnTable(ctx)
	if err != nil {
		return err
	}
	if r.handle, err = nftables.TableHandle("inet", tableName); err != nil {
		return err
	}
	r.generation, r.has, r.applied = generation, has, len(has.handles) == len(r.rules)
	return nil
}

// tableChanged reports whether somebody has deleted the table or made it anew.
func (r *ruleset) tableChanged() bool {
	handle, err := nftables.TableHandle("inet", tableName)
	return err == nil && handle != r.handle
}
