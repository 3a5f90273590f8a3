package network

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"brink/internal/lifecycle"
	"brink/internal/once"
	"brink/network/overlay"
	"brink/network/pods"
)

// settle is how long the loop waits after an event: a pod that comes causes a
// dozen of them, and the CNI plugin shall be done with its own changes.
const settle = 100 * time.Millisecond

// node is the loop's view of this host.
type node struct {
	cfg       Config
	log       *slog.Logger
	network   *Network
	rules     *ruleset
	overlay   *overlay.Overlay
	pods      *pods.Pods
	inherited []netip.Addr // from where peers of the last run send
	firewalls firewalls
	trouble   once.Reporter
	warned    once.Reporter // of warnings that have been logged
}

// open acts in the network namespace of the calling thread.
func open(ctx context.Context, n *Network) (*node, error) {
	log, wake := lifecycle.Logger(ctx), func() { signal(n.wake) }
	attached, err := pods.Open(ctx, n.cfg.pods(), wake, log)
	if err != nil {
		return nil, err
	}
	rules, err := openRuleset(n.cfg, log)
	if err != nil {
		return nil, err
	}
	ways, err := overlay.Open(n.cfg.overlay(), n.desired, wake, log)
	if err != nil {
		return nil, err
	}
	inherited, err := inherit(ctx, n.cfg, ways)
	if err != nil {
		ways.Close()
		return nil, err
	}
	return &node{
		cfg: n.cfg, log: log, network: n, rules: rules, overlay: ways, pods: attached, inherited: inherited,
		firewalls: firewalls{log: log}, trouble: once.Reporter{Every: time.Hour},
	}, nil
}

func (n *node) close() { n.overlay.Close() }

// reconcile brings the host in line with the configuration. The CNI
// configuration comes last: by its presence the container runtime concludes
// that the network works.
func (n *node) reconcile(ctx context.Context) error {
	err := errors.Join(applySettings(n.cfg, n.log), n.rules.reconcile(ctx, n.tunnelEnds()))
	if n.overlay.Reconcile() { // also while nft is missing: peers come and go
		n.report(append(n.overlay.Warnings(), n.conflicts()...))
	}
	if err = errors.Join(err, n.pods.Reconcile(n.overlay.PodMTU())); err != nil {
		return err
	}
	return n.pods.WriteConfig()
}

// report logs each warning when it first comes, not as long as it stays.
func (n *node) report(warnings []string) {
	n.network.mu.Lock()
	before := n.network.warnings
	n.network.warnings = warnings
	n.network.mu.Unlock()
	for _, w := range before {
		if !slices.Contains(warnings, w) {
			n.warned.Cleared(w)
		}
	}
	for _, w := range warnings {
		if n.warned.Changed(w, "") {
			n.log.Warn(w)
		}
	}
	if len(before) > 0 && len(warnings) == 0 {
		n.log.Info("what was said of peers does not hold any more")
	}
}

// keep looks at each tick and soon after each event. Of rules only that a table of
// ours is another one counts as an event: kube-proxy changes its own all the time.
func (n *node) keep(ctx context.Context, changed, rules <-chan struct{}) {
	tick := time.NewTicker(cmp.Or(n.cfg.checkEvery, checkEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
			if !pause(ctx) {
				return
			}
		case <-rules:
			if !pause(ctx) {
				return
			}
			if !n.rules.tableChanged() && !n.pods.HostPorts.TablesChanged() {
				continue
			}
		}
		if err := n.reconcile(ctx); err != nil && ctx.Err() == nil {
			n.complain("repairing", err)
		} else {
			n.trouble.Cleared("repairing")
			n.lookAround(ctx)
		}
	}
}

// pause lets whoever makes changes finish, and tells whether to go on.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(settle):
		return true
	}
}

// lookAround sees to what pods on the node can do without for a moment.
func (n *node) lookAround(ctx context.Context) {
	if err := n.pods.HostPorts.Reconcile(ctx); err != nil && ctx.Err() == nil {
		n.complain("host ports", err)
	} else {
		n.trouble.Cleared("host ports")
	}
	n.firewalls.look(ctx, n.cfg, n.rules.generation)
}

// complain logs lasting trouble every hour, not at every look.
func (n *node) complain(about string, err error) {
	if n.trouble.Changed(about, err.Error()) {
		n.log.Error("repairing the pod network, will try again", "error", err)
	}
}
