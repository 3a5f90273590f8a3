package pods

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/knftables"

	"brink/network/iprange"
	"brink/network/nftables"
)

// HostPorts restores the rules of pods' host ports. The portmap plugin writes them once,
// when the pod comes. Somebody may delete them later, such as a firewall that starts from
// an empty ruleset. They are then written here as the plugin writes them (v1.9.1,
// portmap_nftables.go), so that the plugin finds and removes them when the pod goes.
type HostPorts struct {
	cfg  Config
	wake func() // makes the caller reconcile again
	log  *slog.Logger

	checked    bool            // what follows is known
	generation uint32          // of the kernel's whole ruleset at the last check
	handles    []uint64        // of the tables then, 0 of one that was not there
	needed     bool            // there were pods with ports then
	recorded   time.Time       // when a pod last came or went, as of the last check
	suspects   map[string]bool // pods that had no rule then, as while a pod goes
	unproven   map[string]bool // pods whose rules were written, and which may have been going
}

// recheckAfter is how long after pods' rules were written it is checked that the pods
// still exist: removing a pod takes the plugins less than a second.
const recheckAfter = 5 * time.Second

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

// TablesChanged reports whether somebody has deleted the tables of host ports, or made
// them anew, since the last check. It asks the kernel and starts no process.
func (h *HostPorts) TablesChanged() bool {
	handles, err := hostPortTables()
	return err == nil && h.checked && !slices.Equal(handles, h.handles)
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

// Reconcile writes the rules that pods have lost. A table that is gone, or another one
// than before, has lost all of them. In a table that is the same a pod may have no rules
// because it is just going, so they have to be missing twice.
func (h *HostPorts) Reconcile(ctx context.Context) error {
	generation, err := nftables.Generation()
	recorded := lastRecorded(h.cfg)
	cameOrWent := !recorded.Equal(h.recorded)
	if err != nil || h.checked && generation == h.generation && !cameOrWent && len(h.suspects) == 0 && len(h.unproven) == 0 {
		return err
	}
	handles, err := hostPortTables()
	if err != nil {
		return err
	}
	// A table that no pod needs was not deleted: the plugin makes it with the first port.
	// Whether one needs it may have changed with the pods, whose first table may also have
	// come and gone since the last check.
	if !h.checked || h.needed || cameOrWent || slices.ContainsFunc(handles, func(handle uint64) bool { return handle != 0 }) {
		wrote, err := h.restore(ctx, handles)
		if err != nil {
			return err
		}
		// Only then: a table that was deleted in the meantime must be noticed.
		if wrote {
			if handles, err = hostPortTables(); err != nil {
				return err
			}
		}
	}
	h.checked, h.generation, h.handles, h.recorded = true, generation, handles, recorded
	return nil
}

// isLost reports whether all rules of a table were lost: there is none, or another one
// than at the last check.
func (h *HostPorts) isLost(table int, handles []uint64) bool {
	return !h.checked || handles[table] == 0 || h.handles[table] != 0 && h.handles[table] != handles[table]
}

func (h *HostPorts) restore(ctx context.Context, handles []uint64) (wrote bool, err error) {
	pods, err := podsWithPorts(h.cfg)
	if err != nil {
		return false, err
	}
	h.needed = len(pods) > 0
	if err := h.removeForGone(ctx, pods); err != nil || !h.needed {
		return false, err
	}
	suspects := map[string]bool{}
	for table, family := range hostPortFamilies {
		nft, err := nftables.Open(family, hostPortTable)
		if err != nil {
			return wrote, err
		}
		bare, err := withoutRules(ctx, nft, family, pods)
		if err != nil {
			return wrote, err
		}
		if !h.isLost(table, handles) {
			bare = h.confirmed(bare, suspects)
		}
		if err := h.write(ctx, nft, family, bare); err != nil {
			return wrote, err
		}
		wrote = wrote || len(bare) > 0
	}
	h.suspects = suspects
	return wrote, nil
}

// confirmed returns those of the pods that were suspects at the last check too, and adds
// the others to the new suspects.
func (h *HostPorts) confirmed(pods []podPorts, suspects map[string]bool) []podPorts {
	var out []podPorts
	for _, p := range pods {
		if h.suspects[p.container] {
			out = append(out, p)
		} else {
			suspects[p.container] = true
		}
	}
	return out
}

// removeForGone removes the rules that were written for pods that were just going.
func (h *HostPorts) removeForGone(ctx context.Context, pods []podPorts) error {
	for _, p := range pods {
		delete(h.unproven, p.container)
	}
	if len(h.unproven) == 0 {
		return nil
	}
	for _, family := range hostPortFamilies {
		nft, err := nftables.Open(family, hostPortTable)
		if err == nil {
			_, err = removeHostPortsOf(ctx, nft, h.unproven)
		}
		if err != nil {
			return err
		}
	}
	h.unproven = nil
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

// write adds the rules of pods, and the chains that they need, in one transaction.
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
	if h.unproven == nil {
		h.unproven = map[string]bool{}
	}
	for _, p := range pods {
		h.unproven[p.container] = true
		h.deleteFlows(family, p.ports)
	}
	time.AfterFunc(recheckAfter, h.wake)
	return nil
}

// podsWithPorts are the running pods of brink's network that have host ports. The lease
// shows that a pod was not taken off the network, the network namespace that it has
// started since the last boot.
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
