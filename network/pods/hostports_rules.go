package pods

import (
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/knftables"

	"brink/network/iprange"
)

// addPortTable makes the table and the chains that all rules of ports need.
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

// rules are those of a pod's ports in a family.
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

// deleteFlows drops the kernel's entries of UDP connections to these ports. Senders that
// went on while the rules were gone would not meet the new ones for as long as they send.
func (h *HostPorts) deleteFlows(family knftables.Family, ports []portMapping) {
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
