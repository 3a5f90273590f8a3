package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"brink/internal/lifecycle"
	"brink/internal/once"
	"brink/internal/sleep"
	"brink/network/overlay"
	"brink/network/pods"
)

// settle is how long the loop waits after an event: a pod that comes causes a
// dozen of them, and the CNI plugin has to be done with its own changes.
const settle = 100 * time.Millisecond

// repairLogEvery is how often at most the same repair is logged, as when another program
// undoes it every few seconds.
const repairLogEvery = 10 * time.Minute

// reconciler brings this host in line with the configuration while the component runs.
type reconciler struct {
	cfg       Config
	log       *slog.Logger
	network   *Network
	rules     *ruleset
	overlay   *overlay.Overlay
	pods      *pods.Pods
	inherited []netip.Addr // underlay addresses of the last run's peers
	firewalls firewalls
	trouble   once.Reporter
	warned    once.Reporter // of warnings about peers
}

// open acts in the network namespace of the calling thread.
func open(ctx context.Context, n *Network) (*reconciler, error) {
	log, wake := once.Logger(lifecycle.Logger(ctx), repairLogEvery), func() { signal(n.wake) }
	attached, err := pods.Open(ctx, n.cfg.pods(), wake, log)
	if err != nil {
		return nil, err
	}
	rules, err := openRuleset(n.cfg, log)
	if err != nil {
		return nil, err
	}
	peers, err := overlay.Open(n.cfg.overlay(), n.desired, wake, log)
	if err != nil {
		return nil, err
	}
	inherited, err := inheritedPeers(ctx, n.cfg, peers)
	if err != nil {
		peers.Close()
		return nil, fmt.Errorf("finding the peers of the last run: %w", err)
	}
	return &reconciler{
		cfg: n.cfg, log: log, network: n, rules: rules, overlay: peers, pods: attached, inherited: inherited,
		firewalls: firewalls{log: log}, trouble: once.Reporter{Every: time.Hour},
	}, nil
}

func (r *reconciler) close() { r.overlay.Close() }

// reconcile brings the host in line with the configuration. The CNI
// configuration comes last: by its presence the container runtime concludes
// that the network works.
func (r *reconciler) reconcile(ctx context.Context) error {
	err := errors.Join(applySettings(r.cfg, r.log), r.rules.reconcile(ctx, r.tunnelAddrs()))
	if r.overlay.Reconcile() { // also while nft is missing: peers come and go
		r.warn(append(r.overlay.Warnings(), r.conflicts()...))
	}
	if err = errors.Join(err, r.pods.Reconcile(r.overlay.PodMTU())); err != nil {
		return err
	}
	return r.pods.WriteConfig()
}

// warn replaces the warnings of the network. It logs each when it first comes, not as
// long as it stays.
func (r *reconciler) warn(warnings []string) {
	before := r.network.setWarnings(warnings)
	for _, w := range before {
		if !slices.Contains(warnings, w) {
			r.warned.Cleared(w)
		}
	}
	for _, w := range warnings {
		if r.warned.Changed(w, "") {
			r.log.Warn(w)
		}
	}
	if len(before) > 0 && len(warnings) == 0 {
		r.log.Info("all warnings about peers have cleared")
	}
}

// loop reconciles at each tick and soon after each event. Of changes of rules it heeds
// only that a table it needs has become another one: kube-proxy changes its own all the
// time.
func (r *reconciler) loop(ctx context.Context, changed, rules <-chan struct{}) {
	tick := time.NewTicker(cmp.Or(r.cfg.checkEvery, checkEvery))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-changed:
			if !sleep.For(ctx, settle) {
				return
			}
		case <-rules:
			if !sleep.For(ctx, settle) {
				return
			}
			if !r.rules.tableChanged() && !r.pods.HostPorts.TablesChanged() {
				continue
			}
		}
		err := r.reconcile(ctx)
		r.logTrouble(ctx, "the pod network", err)
		if err == nil {
			r.reconcileRest(ctx)
		}
	}
}

// reconcileRest does what pods on the node can wait for.
func (r *reconciler) reconcileRest(ctx context.Context) {
	r.logTrouble(ctx, "host ports", r.pods.HostPorts.Reconcile(ctx))
	r.firewalls.check(ctx, r.cfg, r.rules.generation)
}

// logTrouble logs an error when it first comes, and lasting trouble every hour.
func (r *reconciler) logTrouble(ctx context.Context, what string, err error) {
	switch {
	case err == nil:
		r.trouble.Cleared(what)
	case ctx.Err() == nil && r.trouble.Changed(what, err.Error()):
		r.log.Error("repairing the pod network, will try again", "error", err)
	}
}
