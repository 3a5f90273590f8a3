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

// VXLAN has no proof of origin: the kernel takes any frame that is sent to the tunnel's
// port, and a frame made by hand arrives at a pod from any address that its maker
// likes. So frames are taken from peers' underlay addresses only, which are kept in sets
// of the table. Whatever can send from such an address, as a process in a node's own
// network can, counts as the node. Frames of this network are recognised by port and
// identifier together: others' VXLAN, and whatever else uses the port, passes.
//
// Address translation (NAT) can put a peer's address on what somebody else has sent. If
// the endpoint of a Service is the port of a tunnel, what a pod or a stranger sends to the
// Service arrives there as a frame, from the address of the node that translated it. So
// the guard comes after all translation, and takes only packets that were never tracked:
// only tracked ones can have been translated. And a node takes frames only at the
// addresses by which peers know it. What a pod sends to any other address of the node
// goes to the outside, and so arrives with the address of the pod's own node.
const guardChain = "tunnel"

// peerSet names the set of peers' underlay addresses of a family.
func peerSet(f family) string { return "peers-" + f.match }

// ownSet names the set of this node's underlay addresses of a family.
func ownSet(f family) string { return "own-" + f.match }

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

// members returns addresses, each as a member of the set of its family.
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

// guardSets are the sets that the rules of guardTunnel refer to.
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

// guardTunnel returns the rules that let the tunnel's frames in from peers and keep
// those, and only those, out of connection tracking. The packets inside of them are
// tracked, so each would be tracked twice. In a trial with links made by hand that cost a
// tenth of the throughput; on a whole node the difference is within the noise. A firewall
// loses nothing: the two directions of a tunnel use different ports, so that tracking
// never took a frame for the answer to another. The backend host-gw needs the rules too:
// it has tunnels to peers that use VXLAN.
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
		add("forward", "frames to another node", frame, f.match, "daddr", peers, "goto", guardChain)
		add("input", "not where peers send to", frame, f.match, "daddr", "!=", "@"+ownSet(f), "counter", "drop")
	}
	add("input", "frames of the tunnel", frame, "goto", guardChain)
	add(guardChain, "pods send no frames", "iifname", bridge, "counter", "drop")
	add(guardChain, "translated, or not from a peer", "ct state != untracked", "counter", "drop")
	// Somebody may have switched tracking off for the port in a table of their own.
	for _, f := range families {
		add(guardChain, "not from a peer", f.match, "saddr", "!=", "@"+peerSet(f), "counter", "drop")
	}
	return rules
}

// isFrame matches UDP to the tunnel's port with the network's identifier: 24 bits
// after the header of UDP and the first 32 bits of that of VXLAN (RFC 7348, 5).
func isFrame() string {
	return fmt.Sprintf("udp dport %d @th,96,24 %d", DefaultVXLANPort, overlay.DefaultVNI)
}

// tunnelAddrs are the addresses between which frames may go, in order: those of all
// peers and those of this node. A peer's backend does not count, for it may be changing,
// and which of two nodes changes first is not known.
func (r *reconciler) tunnelAddrs() []member {
	desired, peers := r.network.desired.Current(), r.inherited
	if desired.PeersKnown {
		peers = nil
		for _, p := range desired.Peers {
			peers = append(peers, p.Underlay...)
		}
		peers = r.cfg.validPeerAddrs(peers)
	}
	out := append(members(peerSet, peers), members(ownSet, desired.Underlay)...)
	slices.SortFunc(out, member.compare)
	return slices.Compact(out)
}

// validPeerAddrs returns the addresses in order, without those that pods can send from.
func (c Config) validPeerAddrs(addrs []netip.Addr) []netip.Addr {
	addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool {
		return !a.IsValid() || iprange.Within(netip.PrefixFrom(a, a.BitLen()), c.ClusterCIDRs)
	})
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// inheritedPeers finds the underlay addresses of the last run's peers, which go on
// sending before this run knows its peers. They are in the table, unless it was deleted
// or an older brink without the guard made it, and in the device's list of destinations.
func inheritedPeers(ctx context.Context, cfg Config, peers *overlay.Overlay) ([]netip.Addr, error) {
	if cfg.backend() == None {
		return nil, nil
	}
	table, err := listOwnTable(ctx)
	if err != nil {
		return nil, err
	}
	addrs, err := peers.Destinations()
	if err != nil {
		return nil, err
	}
	for _, m := range table.members {
		if strings.HasPrefix(m.set, "peers-") {
			addrs = append(addrs, m.addr)
		}
	}
	return cfg.validPeerAddrs(addrs), nil
}

// tableListing is the part of the table "inet brink" that is compared.
type tableListing struct {
	handles []string // of every rule, by chain
	members []member // of the sets, in order
}

// listOwnTable asks nft once for everything. A table that does not exist has nothing.
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
			// Anything but an address is not brink's, and compares as different.
			a, _ := netip.ParseAddr(fmt.Sprint(element))
			table.members = append(table.members, member{entry.Set.Name, a})
		}
	}
	slices.SortFunc(table.members, member.compare)
	return table, nil
}
