package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"brink/network/iprange"
	"brink/network/nftables"
)

// HostPorts keeps the rules of pods' host ports. The portmap plugin writes them once,
// when the pod comes; what somebody deletes later, as a firewall that starts from
// an empty ruleset does, is written here again as the plugin writes it (v1.9.1,
// portmap_nftables.go), so that the plugin finds and removes it when the pod goes.
type HostPorts struct {
	cfg  Config
	wake func() // makes the caller reconcile again
	log  *slog.Logger

	looked     bool
	generation uint32          // of the kernel's whole ruleset at the last look
	handles    []uint64        // of the tables then, 0 of one that was not there
	needed     bool            // there were pods with ports then
	missed     map[string]bool // had no rule at the last look, which is so while a pod goes
	wrote      map[string]bool // for whom rules were written, who may have been going
}

// recheck is how long after rules were written it is looked whether their pods are
// still there: removing a pod takes the plugins less than a second.
const recheck = 5 * time.Second

// podPorts are the host ports of one pod.
type podPorts struct {
	container string
	addrs     []netip.Addr // one of each family
	ports     []portMapping
}

type portMapping struct {
	HostPort, ContainerPort uint16
	Protocol, HostIP        string
}

// TablesChanged tells whether somebody deleted the tables of host ports, or made them
// anew, since the last look: a few questions to the kernel, and no process.
func (h *HostPorts) TablesChanged() bool {
	handles, err := hostPortTables()
	return err == nil && h.looked && !slices.Equal(handles, h.handles)
}

func hostPortTables() ([]uint64, error) {
	var handles []uint64
	for _, family := range hostPortFamilies {
		handle, err := nftables.TableHandle(string(family), hostPortTable)
		if err != nil {
			return nil, err
		}
		handles = append(handles, handle)
	}
	return handles, nil
}

// Reconcile writes the rules that pods have lost. A table that is gone has lost those
// of all; of a table that is as it was, rules may be missing because their pod is
// just going, so they have to be missing twice.
func (h *HostPorts) Reconcile(ctx context.Context) error {
	generation, err := nftables.Generation()
	if err != nil || h.looked && generation == h.generation && len(h.missed) == 0 && len(h.wrote) == 0 {
		return err
	}
	handles, err := hostPortTables()
	if err != nil {
		return err
	}
	// What no pod needs was not deleted; the plugin makes it with the first port.
	if !h.looked || h.needed || slices.ContainsFunc(handles, func(handle uint64) bool { return handle != 0 }) {
		wrote, err := h.restore(ctx, handles)
		if err != nil {
			return err
		}
		// Not otherwise: a table that was deleted since then shall be seen.
		if wrote {
			if handles, err = hostPortTables(); err != nil {
				return err
			}
		}
	}
	h.looked, h.generation, h.handles = true, generation, handles
	return nil
}

// isLost tells whether all rules of a table were: it is another one than at the last
// look, or there is none.
func (h *HostPorts) isLost(table int, handles []uint64) bool {
	return !h.looked || handles[table] == 0 || h.handles[table] != 0 && h.handles[table] != handles[table]
}

func (h *HostPorts) restore(ctx context.Context, handles []uint64) (wrote bool, err error) {
	pods, err := podsWithPorts(h.cfg)
	if err != nil {
		return false, err
	}
	h.needed = len(pods) > 0
	if err := h.leaveGone(ctx, pods); err != nil || !h.needed {
		return false, err
	}
	missed := map[string]bool{}
	for table, family := range hostPortFamilies {
		nft, err := nftables.Open(family, hostPortTable)
		if err != nil {
			return wrote, err
		}
		missing, err := withoutRules(ctx, nft, family, pods)
		if err != nil {
			return wrote, err
		}
		if !h.isLost(table, handles) {
			missing = slices.DeleteFunc(missing, func(p podPorts) bool {
				isNews := !h.missed[p.container]
				missed[p.container] = missed[p.container] || isNews
				return isNews
			})
		}
		if err := h.write(ctx, nft, family, missing); err != nil {
			return wrote, err
		}
		wrote = wrote || len(missing) > 0
	}
	maps.DeleteFunc(missed, func(_ string, is bool) bool { return !is })
	h.missed = missed
	return wrote, nil
}

// leaveGone removes what was written for pods that were just going.
func (h *HostPorts) leaveGone(ctx context.Context, pods []podPorts) error {
	for _, p := range pods {
		delete(h.wrote, p.container)
	}
	if len(h.wrote) == 0 {
		return nil
	}
	for _, family := range hostPortFamilies {
		nft, err := nftables.Open(family, hostPortTable)
		if err == nil {
			_, err = removeHostPortsOf(ctx, nft, h.wrote)
		}
		if err != nil {
			return err
		}
	}
	h.wrote = nil
	return nil
}

// withoutRules are the pods with ports in the family that have no rule.
func withoutRules(ctx context.Context, nft knftables.Interface, family knftables.Family, pods []podPorts) ([]podPorts, error) {
	rules, err := nft.ListRules(ctx, hostPortChain)
	if err != nil && !knftables.IsNotFound(err) {
		return nil, fmt.Errorf("listing host ports: %s", nftables.OneLine(err))
	}
	has := map[string]bool{}
	for _, rule := range rules {
		if rule.Comment != nil {
			has[*rule.Comment] = true
		}
	}
	var out []podPorts
	for _, p := range pods {
		if !has[p.container] && len(p.rules(family)) > 0 {
			out = append(out, p)
		}
	}
	return out, nil
}

// write adds the rules of pods, and what they hang on, in one transaction.
func (h *HostPorts) write(ctx context.Context, nft knftables.Interface, family knftables.Family, pods []podPorts) error {
	if len(pods) == 0 {
		return nil
	}
	h.log.Warn("rules of host ports were deleted by someone else, writing them again", "table", string(family)+" "+hostPortTable, "pods", len(pods))
	tx := nft.NewTransaction()
	addPortTable(tx)
	for _, p := range pods {
		for _, rule := range p.rules(family) {
			tx.Add(rule)
		}
	}
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("writing nftables table %s %s: %s", family, hostPortTable, nftables.OneLine(err))
	}
	if h.wrote == nil {
		h.wrote = map[string]bool{}
	}
	for _, p := range pods {
		h.wrote[p.container] = true
		h.forgetFlows(family, p.ports)
	}
	time.AfterFunc(recheck, h.wake)
	return nil
}

// addPortTable makes the table and what all rules of ports hang on.
func addPortTable(tx *knftables.Transaction) {
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("CNI portmap plugin")})
	for _, name := range []string{hostPortChain, "hostip_hostports", "hostports_all"} {
		tx.Add(&knftables.Chain{Name: name})
	}
	tx.Flush(&knftables.Chain{Name: "hostports_all"})
	tx.Add(&knftables.Rule{Chain: "hostports_all", Rule: "jump hostip_hostports"})
	tx.Add(&knftables.Rule{Chain: "hostports_all", Rule: "jump " + hostPortChain})
	hooked := func(name string, hook knftables.BaseChainHook, priority knftables.BaseChainPriority) *knftables.Chain {
		return &knftables.Chain{Name: name, Type: knftables.PtrTo(knftables.NATType), Hook: &hook, Priority: &priority}
	}
	for _, hook := range []knftables.BaseChainHook{knftables.PreroutingHook, knftables.OutputHook} {
		chain := hooked(string(hook), hook, knftables.DNATPriority)
		tx.Add(chain)
		tx.Flush(chain)
		tx.Add(&knftables.Rule{Chain: chain.Name, Rule: "fib daddr type local jump hostports_all"})
	}
	tx.Add(hooked("masquerading", knftables.PostroutingHook, knftables.SNATPriority))
}

// rules are those of a pod's ports in a family, none when it has none there.
func (p podPorts) rules(family knftables.Family) []*knftables.Rule {
	own, ok := iprange.SameFamily(p.addrs, loopback(family))
	if !ok {
		return nil
	}
	var rules []*knftables.Rule
	add := func(chain string, parts ...any) {
		rules = append(rules, &knftables.Rule{Chain: chain, Rule: knftables.Concat(parts...), Comment: knftables.PtrTo(p.container)})
	}
	for _, port := range p.ports {
		to := []any{port.Protocol, "dport", port.HostPort, "dnat to", netip.AddrPortFrom(own, port.ContainerPort)}
		switch at, err := netip.ParseAddr(port.HostIP); {
		case err != nil || at.IsUnspecified() && at.Is4() == own.Is4():
			add(hostPortChain, to...)
		case at.Is4() == own.Is4():
			add(hostPortChain, append([]any{family, "daddr", at}, to...)...)
		}
	}
	if len(rules) == 0 {
		return nil
	}
	add("masquerading", family, "saddr", own, family, "daddr", own, "masquerade")
	if own.Is4() {
		add("masquerading", family, "saddr 127.0.0.1", family, "daddr", own, "masquerade")
	}
	return rules
}

func loopback(family knftables.Family) netip.Addr {
	if family == knftables.IPv6Family {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// forgetFlows drops what the kernel remembers of UDP to these ports: senders that
// went on while the rules were gone would be led past them for as long as they send.
func (h *HostPorts) forgetFlows(family knftables.Family, ports []portMapping) {
	kind := netlink.InetFamily(unix.AF_INET)
	if family == knftables.IPv6Family {
		kind = unix.AF_INET6
	}
	for _, port := range ports {
		filter := &netlink.ConntrackFilter{}
		err := errors.Join(filter.AddProtocol(unix.IPPROTO_UDP), filter.AddPort(netlink.ConntrackOrigDstPort, port.HostPort))
		if port.Protocol != "udp" || err != nil {
			continue
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, kind, filter); err != nil {
			h.log.Debug("forgetting flows to a host port", "port", port.HostPort, "error", err)
		}
	}
}

// podsWithPorts are the pods of our network that run and have host ports. A lease
// says that the pod has not been taken off the network, its network namespace that
// it is not of before a reboot.
func podsWithPorts(cfg Config) ([]podPorts, error) {
	var out []podPorts
	err := eachPod(cfg, func(r cniResult) {
		p := podPorts{container: r.Container}
		for _, port := range r.Capabilities.Ports {
			port.Protocol = strings.ToLower(port.Protocol)
			if port.HostPort > 0 && slices.Contains([]string{"tcp", "udp", "sctp"}, port.Protocol) {
				p.ports = append(p.ports, port)
			}
		}
		for _, ip := range r.Result.IPs {
			if _, has := iprange.SameFamily(p.addrs, ip.Address.Addr()); ip.Address.IsValid() && !has {
				p.addrs = append(p.addrs, ip.Address.Addr())
			}
		}
		if len(p.ports) > 0 && r.isRunning() {
			out = append(out, p)
		}
	})
	slices.SortFunc(out, func(a, b podPorts) int { return strings.Compare(a.container, b.container) })
	return out, err
}
