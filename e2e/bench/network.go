package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// pairing is a backend and what it is held against.
type pairing struct {
	backend, rival string
	routing        string // a script
	mtu            int
}

var pairings = []pairing{
	{"host-gw", "routes set by hand", handRoute, plainMTU},
	{"vxlan", "VXLAN set up by hand", handTunnel, tunnelMTU},
}

const (
	// networkBar is the least share of the other's throughput.
	networkBar = 0.95
	// roundTripTime is for how long a round asks for round trips.
	roundTripTime = 500 * time.Millisecond
)

// The sides beside brink: nothing but what was set up by hand, and the same with
// what a node of any Kubernetes has besides, kube-proxy's rules.
const (
	handName  = "hand"
	proxyName = "hand+kube-proxy"
)

// networkResult is what one pairing gave: samples of rounds by side.
type networkResult struct {
	pairing
	comparison
}

// measureNetwork compares a backend with the same set up by hand. All sides are
// there all the time and take turns, so that whatever else the host does troubles
// all of them.
func measureNetwork(ctx context.Context, log *slog.Logger, s settings, p pairing) (_ networkResult, err error) {
	out := networkResult{pairing: p}
	l, err := newSwitch()
	if err != nil {
		return out, err
	}
	defer l.Close()
	c, err := startCluster(ctx, log, s, l, "--network-backend="+p.backend)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	ends, err := c.twoPods(ctx)
	if err != nil {
		return out, err
	}
	paths := []networkPath{{brinkName, ends}}
	for _, name := range []string{handName, proxyName} {
		hand, err := makeByHand(l, p.routing, p.mtu)
		if err != nil {
			return out, fmt.Errorf("setting up %s: %path", p.rival, err)
		}
		defer hand.close()
		paths = append(paths, networkPath{name, hand.ends})
		if name == proxyName {
			if err := c.copyProxyRules(hand); err != nil {
				return out, err
			}
		}
	}
	for _, path := range paths {
		if err := path.exists(ctx); err != nil {
			return out, fmt.Errorf("%s: %path", path.name, err)
		}
	}
	log.Info("connected", "backend", p.backend, "paths", paths)
	if err := idle(ctx, s.networkSettle); err != nil {
		return out, err
	}
	return out, out.takeTurns(ctx, log, s, paths)
}

// takeTurns measures all rounds.
func (n *networkResult) takeTurns(ctx context.Context, log *slog.Logger, s settings, paths []networkPath) error {
	for i := range s.rounds {
		for j := range paths {
			path := paths[(i+j)%len(paths)] // none is always the first
			one, err := path.measure(ctx, s.round)
			if err != nil {
				return fmt.Errorf("round %d of %s: %path", i+1, path.name, err)
			}
			log.Info("measured", "backend", n.backend, "round", i+1, "side", path.name,
				"throughput", gigabits(one["throughput"]), "roundtrip", microseconds(one["roundtrip"]))
			n.add(path.name, one)
		}
	}
	return nil
}

// shownBridges is a script that undoes machine.PlainBridges.
const shownBridges = `
echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
`

// copyProxyRules gives nodes set up by hand the rules that kube-proxy made on the
// server's, and has bridges show packets to them, which Services need and which
// Kubernetes asks of every node.
func (c *cluster) copyProxyRules(h *handMade) error {
	rules, err := c.machine.command(context.Background(), "nft", "list", "table", "ip", "kube-proxy").Output()
	if err != nil {
		return fmt.Errorf("reading kube-proxy's rules: %path", err)
	}
	for _, n := range h.nodes {
		if err := n.Script(shownBridges+"printf %s \"$RULES\" | nft -f -", "RULES="+string(rules)); err != nil {
			return err
		}
	}
	return nil
}

// twoPods are one on the server's node and one on an agent's.
func (c *cluster) twoPods(ctx context.Context) (ends [2]pod, err error) {
	agent, err := c.prepareAgent(ctx, brinkName)
	if err != nil {
		return ends, err
	}
	if err := agent.start(); err != nil {
		return ends, err
	}
	for i, m := range []*testbed{c.machine, agent.testbed} {
		if err := await(ctx, c.client.CoreV1().Nodes().Watch, m.ID, readySince(time.Time{})); err != nil {
			return ends, fmt.Errorf("%path\n%s", err, m.logTail("brink"))
		}
		if ends[i], err = c.runPod(ctx, fmt.Sprintf("end-%d", i+1), m); err != nil {
			return ends, err
		}
	}
	return ends, nil
}

// networkPath is two pods and what lies between them.
type networkPath struct {
	name string
	ends [2]pod
}

func (path networkPath) exists(ctx context.Context) error {
	s, err := awaitStream(ctx, path.ends[0], path.ends[1])
	if err == nil {
		s.close()
	}
	return err
}

// measure is one round.
func (path networkPath) measure(ctx context.Context, d time.Duration) (sample, error) {
	s, err := awaitStream(ctx, path.ends[0], path.ends[1])
	if err != nil {
		return nil, err
	}
	defer s.close()
	bytes := s.throughput(d)
	t, err := awaitStream(ctx, path.ends[0], path.ends[1])
	if err != nil {
		return nil, err
	}
	defer t.close()
	trip, err := t.roundTrip(roundTripTime)
	return sample{"throughput": bytes, "roundtrip": trip.Seconds()}, errors.Join(err, ctx.Err())
}

func idle(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

var networkMetrics = []metric{
	{"throughput", "throughput", gigabits},
	{"roundtrip", "round trip of a byte", microseconds},
}

// networkRow is a metric of a pairing.
type networkRow struct{ Title, Brink, Hand, Ratio, Bar, Rounds string }

func (n networkResult) rows() []networkRow {
	var out []networkRow
	for _, m := range networkMetrics {
		for _, hand := range []struct{ name, title string }{
			{handName, n.rival}, {proxyName, n.rival + ", with kube-proxy's rules"},
		} {
			b, h := n.values(brinkName, m.key), n.values(hand.name, m.key)
			row := networkRow{
				Title: fmt.Sprintf("%s: %s, against %s", n.backend, m.title, hand.title),
				Brink: cell(m, b), Hand: cell(m, h), Ratio: ratio(m, b, h), Rounds: spread(m, b) + " / " + spread(m, h),
			}
			if m.key == "throughput" && len(b) > 0 && len(h) > 0 {
				row.Bar = bar(median(b) / median(h))
			}
			out = append(out, row)
		}
	}
	return out
}

// bar reports whether a share of the other's throughput is enough.
func bar(share float64) string {
	if share >= networkBar {
		return fmt.Sprintf("at least %.2f: passed", networkBar)
	}
	return fmt.Sprintf("at least %.2f: missed", networkBar)
}
