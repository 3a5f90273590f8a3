// Package network makes a node's pod network work in the kernel: the CNI
// configuration by which pods attach, the kernel settings that routing pods
// needs, and brink's own nftables rules. It knows prefixes, links and rules, not
// Kubernetes objects; the agent translates.
//
// It owns the file 10-brink.conflist, the address leases below CNIStateDir, the
// bridge (made by the CNI bridge plugin at the first pod, repaired here) and the
// nftables table "inet brink". It reads and writes nobody else's table.
//
// Everything is desired state: New's component compares it with what is there,
// changes what differs, and keeps comparing, so that what someone else deletes
// comes back. When it stops it leaves everything in place, for pods outlive it;
// Remove is for uninstalling.
//
// Decisions:
//   - One table of family inet instead of one for each of ip and ip6: one code
//     path and one transaction. Kernels old enough to lack NAT there (before
//     5.2) lack what kube-proxy's nftables mode needs too.
//   - The CNI bridge plugin's own masquerading is off. It adds rules for every
//     pod; ours is one rule for the whole cluster.
//   - There is no chain that accepts forwarded pod traffic. In nftables an accept
//     ends only the base chain it stands in: a drop in any other base chain of
//     the hook, such as a FORWARD policy of DROP set by Docker, ufw or firewalld,
//     still wins, and where nobody drops there is nothing to accept. A host
//     firewall has to be told to let the cluster's addresses through.
//   - Changes by others are noticed by the ruleset's generation number, which
//     the kernel raises at each nftables commit: asking for it is one netlink
//     round trip of microseconds, so it is asked often, and nft (milliseconds of
//     CPU) is started only when the number moved. Given up: the nftables
//     notification group, which sends every element of every service change.
//   - Links and addresses have notification groups with little in them, and wake
//     the loop: a bridge that somebody removed cuts off every pod until it is back.
//   - rp_filter is left as it is: pods answer on the link they are routed by, so
//     even strict mode drops nothing.
//
// Peers are to come beside this: routes, neighbours and FDB entries to other
// nodes' prefixes, reconciled by the same loop (see node.reconcile). They add
// links and routes of their own and need no change to the rules, which already
// spare the whole cluster's prefixes from masquerading.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"brink/internal/lifecycle"
)

const componentName = "network"

// DefaultCheckEvery is how often the component compares the kernel with what it
// wants, apart from the events that wake it. A look that finds nothing changed
// reads a few small files and asks the kernel a few times, without starting a
// process.
const DefaultCheckEvery = 10 * time.Second

// DefaultBridge is the bridge to which pods attach.
const DefaultBridge = "brink0"

// DefaultCNICacheDir is where the CNI library of the container runtime keeps its
// results, for which it has no option.
const DefaultCNICacheDir = "/var/lib/cni"

// Config is a node's part of the pod network.
type Config struct {
	// ClusterCIDRs are the prefixes of all nodes' pods: at most one of each
	// address family.
	ClusterCIDRs []netip.Prefix
	// NodeCIDRs are this node's share of them. Their first address is the
	// bridge's.
	NodeCIDRs []netip.Prefix
	// CNIConfDir is where the CNI configuration is written, CNIStateDir where
	// the host-local plugin keeps its leases. Both are made.
	CNIConfDir, CNIStateDir string
	// CNICacheDir is where the CNI library keeps results, below "results"; empty
	// is DefaultCNICacheDir. It is only read.
	CNICacheDir string
	// MTU is that of pod interfaces in bytes; zero is the kernel's, 1500.
	MTU int
	// Bridge is the bridge's name; empty is DefaultBridge.
	Bridge string
	// CheckEvery is the time between two comparisons; zero is
	// DefaultCheckEvery.
	CheckEvery time.Duration
}

func (c Config) withDefaults() Config {
	if c.Bridge == "" {
		c.Bridge = DefaultBridge
	}
	if c.CNICacheDir == "" {
		c.CNICacheDir = DefaultCNICacheDir
	}
	if c.CheckEvery == 0 {
		c.CheckEvery = DefaultCheckEvery
	}
	return c
}

// Validate returns everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	if len(c.NodeCIDRs) == 0 {
		errs = append(errs, errors.New("the node has no pod addresses"))
	}
	errs = append(errs, onePerFamily("cluster CIDR", c.ClusterCIDRs), onePerFamily("node CIDR", c.NodeCIDRs))
	for _, node := range c.NodeCIDRs {
		if !within(node, c.ClusterCIDRs) {
			errs = append(errs, fmt.Errorf("node CIDR %s is in none of the cluster's %v", node, c.ClusterCIDRs))
		}
	}
	for _, dir := range []string{c.CNIConfDir, c.CNIStateDir} {
		if !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("CNI directory %q is not absolute", dir))
		}
	}
	// 1280 is the least an IPv6 link may have (RFC 8200).
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		errs = append(errs, fmt.Errorf("MTU %d is not between 1280 and 65535", c.MTU))
	}
	if len(c.Bridge) > 15 {
		errs = append(errs, fmt.Errorf("bridge name %q is longer than the 15 bytes the kernel allows", c.Bridge))
	}
	return errors.Join(errs...)
}

func onePerFamily(what string, prefixes []netip.Prefix) error {
	seen := map[bool]netip.Prefix{}
	for _, p := range prefixes {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("%s %s is not a network prefix", what, p)
		}
		if other, ok := seen[p.Addr().Is4()]; ok {
			return fmt.Errorf("%s %s and %s are of one address family", what, other, p)
		}
		seen[p.Addr().Is4()] = p
	}
	return nil
}

func within(p netip.Prefix, wider []netip.Prefix) bool {
	for _, w := range wider {
		if w.Contains(p.Addr()) && w.Bits() <= p.Bits() {
			return true
		}
	}
	return false
}

// has reports whether the cluster uses an address family.
func (c Config) has(f family) bool { return len(f.of(c.ClusterCIDRs)) > 0 }

// New returns the component "network". It is ready when pods can be attached
// and reach the world. It fails only before that; later trouble is logged and
// tried again.
func New(cfg Config) lifecycle.Component {
	cfg = cfg.withDefaults()
	return lifecycle.Component{Name: componentName, Run: func(ctx context.Context, ready func()) error {
		if err := cfg.Validate(); err != nil {
			return err
		}
		n, err := open(cfg)
		if err != nil {
			return err
		}
		if err := noteHostPorts(ctx, cfg); err != nil {
			return err
		}
		changed, err := watchLinks(ctx)
		if err != nil {
			return err
		}
		if err := n.reconcile(ctx); err != nil {
			return err
		}
		ready()
		n.keep(ctx, changed)
		return nil
	}}
}

type node struct {
	cfg        Config
	rules      *ruleset
	bridgeMAC  net.HardwareAddr // of the bridge at the last look
	complained time.Time
}

func open(cfg Config) (*node, error) {
	rules, err := openRuleset(cfg)
	if err != nil {
		return nil, err
	}
	return &node{cfg: cfg, rules: rules}, nil
}

// reconcile brings the host in line with the configuration. The CNI
// configuration comes last: by its presence the container runtime concludes
// that the network works.
func (n *node) reconcile(ctx context.Context) error {
	if err := applySettings(n.cfg); err != nil {
		return err
	}
	if err := n.rules.reconcile(ctx); err != nil {
		return err
	}
	if err := n.keepBridge(); err != nil {
		return err
	}
	return writeConflist(n.cfg)
}

// keep looks at each tick and soon after each event.
func (n *node) keep(ctx context.Context, changed <-chan struct{}) {
	tick := time.NewTicker(n.cfg.CheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
		}
		if err := n.reconcile(ctx); err != nil && ctx.Err() == nil {
			n.complain(err)
		} else {
			n.complained = time.Time{}
		}
	}
}

// complain logs lasting trouble every hour, not at every look.
func (n *node) complain(err error) {
	if time.Since(n.complained) < time.Hour {
		return
	}
	n.complained = time.Now()
	slog.Error("repairing the pod network, will try again", "component", componentName, "error", err)
}
