package network

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// node is the loop's view of this host.
type node struct {
	cfg          Config
	rules        *ruleset
	stack        *netstack
	peers        *peerKeeper
	inherited    []netip.Addr // from where peers of the last run send
	hostPorts    hostPorts
	firewalls    firewalls
	bridgeMAC    net.HardwareAddr // of the bridge at the last look
	hasAddresses bool             // the bridge had all of its addresses once
	complained   time.Time

	routesLooked bool // old routes to Services are gone
}

// open acts in the network namespace of the calling thread.
func open(ctx context.Context, cfg Config, peers *peerKeeper) (*node, error) {
	rules, err := openRuleset(cfg)
	if err != nil {
		return nil, err
	}
	stack, err := openNetstack()
	if err != nil {
		return nil, err
	}
	peers.kernel = stack
	inherited, err := inherit(ctx, cfg, stack)
	if err != nil {
		stack.close()
		return nil, err
	}
	return &node{cfg: cfg, rules: rules, stack: stack, peers: peers, inherited: inherited, hostPorts: hostPorts{cfg: cfg, wake: peers.wake}}, nil
}

func (n *node) close() {
	n.peers.probe.stop()
	n.stack.close()
}

// reconcile brings the host in line with the configuration. The CNI
// configuration comes last: by its presence the container runtime concludes
// that the network works.
func (n *node) reconcile(ctx context.Context) error {
	err := errors.Join(applySettings(n.cfg), n.rules.reconcile(ctx, n.tunnelEnds()))
	n.peers.reconcile() // also while nft is missing: peers come and go
	n.cfg.MTU = n.peers.mtu
	if err = errors.Join(err, n.keepBridge(), n.keepServiceRoutes()); err != nil {
		return err
	}
	return writeConflist(n.cfg)
}

// keep looks at each tick and soon after each event. Of rules only that a table of
// ours is another one counts as an event: kube-proxy changes its own all the time.
func (n *node) keep(ctx context.Context, changed, rules <-chan struct{}) {
	tick := time.NewTicker(n.cfg.CheckEvery)
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
			if !n.rules.tableChanged() && !n.hostPorts.tablesChanged() {
				continue
			}
		}
		if err := n.reconcile(ctx); err != nil && ctx.Err() == nil {
			n.complain(err)
		} else {
			n.complained = time.Time{}
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
	if err := n.hostPorts.reconcile(ctx); err != nil && ctx.Err() == nil {
		n.complain(err)
	}
	n.firewalls.look(ctx, n.cfg, n.rules.generation)
}

// complain logs lasting trouble every hour, not at every look.
func (n *node) complain(err error) {
	if time.Since(n.complained) < time.Hour {
		return
	}
	n.complained = time.Now()
	slog.Error("repairing the pod network, will try again", "component", componentName, "error", err)
}
