package network

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"

	"brink/network/iprange"
	"brink/network/overlay"
)

// The tunnel believes whoever sends to its port: VXLAN has no proof of origin, and a
// frame that anybody made arrives at a pod from any address that its maker likes. So
// frames are taken from peers' underlay addresses only, which are kept in these sets.
// Who can send from such an address, as a process in a node's own network can, is the
// node. What tells frames of this network is port and identifier together: others'
// VXLAN, and whatever else uses the port, is not ours to judge.
//
// Packets that were translated on their way have their source given to them by this
// node or a peer: a Service whose endpoint is the port of a tunnel makes a frame of
// what a pod or a stranger sends to it. So the guard stands behind all translation,
// and takes what was never tracked, which translation needs. And a node takes frames
// only at the addresses that peers know it by: what a pod sends to another one of it
// leaves the pod's node as that node's own, like all that pods send to the outside.
const guardChain = "tunnel"

// peerSet is the name of the set for a family of peers' underlay addresses, ownSet of
// that for this node's.
func peerSet(f family) string { return "peers-" + f.match }
func ownSet(f family) string  { return "own-" + f.match }

// member is an address in a set.
type member struct {
	set  string
	addr netip.Addr
}

func (m member) compare(other member) int {
	return cmp.Or(strings.Compare(m.set, other.set), m.addr.Compare(other.addr))
}

func (m member) element() *knftables.Element {
	return &knftables.Element{Set: m.set, Key: []string{m.addr.String()}}
}

// members are addresses, each in the set of its family.
func members(set func(family) string, addrs []netip.Addr) []member {
	var out []member
	for _, a := range addrs {
		for _, f := range families {
			if a.IsValid() && f.v6 == a.Is6() {
				out = append(out, member{set(f), a})
			}
		}
	}
	return out
}

// guardSets are those that rules of guardTunnel refer to.
func guardSets(cfg Config) []*knftables.Set {
	if cfg.backend() == None {
		return nil
	}
	var sets []*knftables.Set
	for _, f := range families {
		kind := "ipv4_addr"
		if f.v6 {
			kind = "ipv6_addr"
		}
		sets = append(sets,
			&knftables.Set{Name: peerSet(f), Type: kind, Comment: knftables.PtrTo("underlay addresses of other nodes")},
			&knftables.Set{Name: ownSet(f), Type: kind, Comment: knftables.PtrTo("underlay addresses of this node")})
	}
	return sets
}

// guardTunnel lets the tunnel's frames in from peers and keeps those, and only those,
// out of connection tracking: what is inside of them is tracked, and so each packet
// would pass it twice. In a trial with links made by hand that was a tenth of the
// throughput; beside all that a node does the difference is within the noise. A
// firewall loses nothing: the two directions of a tunnel have different ports, so no
// packet was ever an answer. Both backends of ours have tunnels, to peers of the other.
func guardTunnel(cfg Config) []*knftables.Rule {
	if cfg.backend() == None {
		return nil
	}
	bridge, frame := fmt.Sprintf("%q", cfg.bridgeName()), isFrame()
	var rules []*knftables.Rule
	add := func(chain, comment string, parts ...any) {
		rules = append(rules, &knftables.Rule{Chain: chain, Rule: knftables.Concat(parts...), Comment: knftables.PtrTo(comment)})
	}
	for _, f := range families {
		peers := "@" + peerSet(f)
		add("prerouting", "the tunnel itself is no connection", frame, "iifname", "!=", bridge, f.match, "saddr", peers, "notrack")
		add("output", "the tunnel itself is no connection", frame, f.match, "daddr", peers, "notrack")
		add("forward", "on their way to another node", frame, f.match, "daddr", peers, "goto", guardChain)
		add("input", "not where peers send to", frame, f.match, "daddr", "!=", "@"+ownSet(f), "counter", "drop")
	}
	add("input", "frames of the tunnel", frame, "goto", guardChain)
	add(guardChain, "pods make none", "iifname", bridge, "counter", "drop")
	add(guardChain, "translated, or from nobody we know", "ct state != untracked", "counter", "drop")
	// Somebody may have switched tracking off for the port in a table of their own.
	for _, f := range families {
		add(guardChain, "from nobody we know", f.match, "saddr", "!=", "@"+peerSet(f), "counter", "drop")
	}
	return rules
}

// isFrame matches UDP to the tunnel's port with the network's identifier: 24 bits
// after the header of UDP and the first 32 bits of that of VXLAN (RFC 7348, 5).
func isFrame() string {
	return fmt.Sprintf("udp dport %d @th,96,24 %d", DefaultVXLANPort, overlay.DefaultVNI)
}

// tunnelEnds are the addresses between which frames may go, in order: all of peers,
// whatever their backend is, for it may be changing, and who sends first is not known;
// and those of this node.
func (n *node) tunnelEnds() []member {
	w, ends := n.network.desired.Current(), n.inherited
	if w.PeersKnown {
		ends = nil
		for _, p := range w.Peers {
			ends = append(ends, p.Underlay...)
		}
		ends = n.cfg.acceptEnds(ends)
	}
	out := append(members(peerSet, ends), members(ownSet, w.Underlay)...)
	slices.SortFunc(out, member.compare)
	return slices.Compact(out)
}

// acceptEnds sorts them, and leaves out what pods can send from.
func (c Config) acceptEnds(ends []netip.Addr) []netip.Addr {
	ends = slices.DeleteFunc(ends, func(a netip.Addr) bool {
		return !a.IsValid() || iprange.Within(netip.PrefixFrom(a, a.BitLen()), c.ClusterCIDRs)
	})
	slices.SortFunc(ends, netip.Addr.Compare)
	return slices.Compact(ends)
}

// inherit finds the peers of the last run, who go on sending until somebody says
// which there are now: those of the table, unless it was deleted or is of a brink that
// knew no guard, and those that the device sends to.
func inherit(ctx context.Context, cfg Config, ways *overlay.Overlay) ([]netip.Addr, error) {
	if cfg.backend() == None {
		return nil, nil
	}
	table, err := listOwnTable(ctx)
	if err != nil {
		return nil, err
	}
	ends, err := ways.Destinations()
	if err != nil {
		return nil, err
	}
	for _, m := range table.members {
		if strings.HasPrefix(m.set, "peers-") {
			ends = append(ends, m.addr)
		}
	}
	return cfg.acceptEnds(ends), nil
}

// tableListing is what is looked at of the table "inet brink".
type tableListing struct {
	handles []string // of every rule, by chain
	members []member // of the sets, in order
}

// listOwnTable asks nft once for all; a table that is not there has nothing.
func listOwnTable(ctx context.Context) (tableListing, error) {
	out, err := exec.CommandContext(ctx, "nft", "--json", "list", "table", "inet", tableName).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		if strings.Contains(string(exit.Stderr), "No such file or directory") {
			return tableListing{}, nil
		}
		err = fmt.Errorf("%w: %s", err, strings.Join(strings.Fields(string(exit.Stderr)), " "))
	}
	if err != nil {
		return tableListing{}, fmt.Errorf("listing nftables table inet %s: %w", tableName, err)
	}
	return parseTable(out)
}

// parseTable reads what nft prints as in libnftables-json(5).
func parseTable(out []byte) (tableListing, error) {
	var list struct {
		Nftables []struct {
			Rule *struct {
				Chain  string
				Handle int
			}
			Set *struct {
				Name string
				Elem []any
			}
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return tableListing{}, fmt.Errorf("reading nftables table inet %s: %w", tableName, err)
	}
	var table tableListing
	for _, entry := range list.Nftables {
		if entry.Rule != nil {
			table.handles = append(table.handles, fmt.Sprintf("%s %d", entry.Rule.Chain, entry.Rule.Handle))
		}
		if entry.Set == nil {
			continue
		}
		for _, element := range entry.Set.Elem {
			// What is no address is not ours, and compares as different.
			a, _ := netip.ParseAddr(fmt.Sprint(element))
			table.members = append(table.members, member{entry.Set.Name, a})
		}
	}
	slices.SortFunc(table.members, member.compare)
	return table, nil
}
