// Package node runs one brink process on one machine. The process refuses a configuration
// that cannot work before it writes anything, and locks the data directory. Then it runs
// the components of the server, the agent or both, and answers `brink status` meanwhile.
// The package also has what other commands need of such a process: the checks of the host,
// whether a process runs and how to stop it, and the versions.
//
// It knows no flags and no command line: those are in package cmd. It is the only package
// that knows both the server and the agent.
//
// Read in this order: config.go (what is asked for), node.go (Run, from the checks to
// the end), checks.go and networks.go (what is refused and what is warned of), lock.go,
// process.go (the list of components), status.go, stop.go; then package upstream, for the
// globals that the process has meanwhile.
package node

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"brink/agent/ledger"
	"brink/cmd/node/upstream"
	"brink/internal/atomicfile"
	"brink/internal/clock"
	"brink/internal/datadir"
	"brink/internal/host"
	"brink/internal/proxyenv"
	"brink/server/pki"
)

// Run makes the machine ready for a node and runs the node until ctx ends or a
// component fails. Everything that can be refused is refused before anything is made.
func Run(ctx context.Context, cfg Config, globals *upstream.Globals) error {
	facts, err := host.Look()
	if err != nil {
		return err
	}
	if facts.EffectiveUID != 0 {
		return notRoot(cfg)
	}
	if cfg.Agent != nil {
		node := *cfg.Agent
		node.Host = facts
		cfg.Agent = &node
	}
	if err := checkLock(cfg.Layout); err != nil {
		return err // before the other brink's ports are found taken
	}
	clockWarning, err := settleClock(ctx, clock.System(), cfg.Layout, builtAt(), globals)
	if ctx.Err() != nil {
		return nil // nothing has been made
	}
	if err != nil {
		return err
	}
	p, err := composeStart(cfg, globals, time.Now()) // by a clock that is not certainly wrong
	if err != nil {
		return err
	}
	unlock, err := takeDirectories(cfg)
	if err != nil {
		return err
	}
	defer unlock()
	if err := makeRunDir(cfg.Layout.Run()); err != nil {
		return err
	}
	if err := excludeFromProxy(cfg); err != nil {
		return err
	}
	if err := beginState(ctx, cfg); err != nil {
		return err
	}
	if p.server != nil {
		if err := p.server.Prepare(); err != nil {
			return err
		}
	}
	p.warnings = append(p.warnings, clockWarning)
	return p.run(ctx)
}

// composeStart refuses what cannot work, before anything has been made: neither the data
// directory nor anything in it. It returns the process that works.
func composeStart(cfg Config, globals *upstream.Globals, begun time.Time) (*process, error) {
	if err := checkHost(cfg); err != nil {
		return nil, err
	}
	if s := cfg.Server; s != nil {
		if err := pki.CheckKubeconfig(s.Kubeconfig, pki.Dir(cfg.Layout.TLS()).ServerCA()); err != nil {
			return nil, fmt.Errorf("--write-kubeconfig: %w", err)
		}
	}
	return compose(cfg, globals, begun)
}

// takeDirectories locks the data directory, before anything is written into it, and the
// database's. The returned function unlocks both.
func takeDirectories(cfg Config) (unlock func(), err error) {
	unlockData, err := lockDataDir(cfg.Layout)
	if err != nil {
		return nil, err
	}
	if err := prepare(cfg); err != nil {
		unlockData()
		return nil, err
	}
	if cfg.Server == nil {
		return unlockData, nil
	}
	unlockDatabase, err := lockDatabase(cfg.Layout)
	if err != nil {
		unlockData()
		return nil, err
	}
	return func() { unlockDatabase(); unlockData() }, nil
}

// prepare marks the data directory as brink's, and writes down what the next start and an
// uninstall need to know. The caller holds the data directory's lock. A start may still be
// refused later, by a database on another machine. The mark stays then: an agent may have
// unpacked programs and made mounts meanwhile, and by the mark the next start, or uninstalling,
// knows whose these are.
func prepare(cfg Config) error {
	if err := datadir.Claim(cfg.Layout); err != nil {
		return err
	}
	// A server without an agent remembers its addresses there.
	if cfg.Agent != nil || cfg.Server.Addresses.MayChange() {
		if err := datadir.MakeAgent(cfg.Layout); err != nil {
			return err
		}
	}
	if err := keepNodeID(cfg); err != nil {
		return err
	}
	if cfg.Server == nil {
		return ledger.RecordNodePassword(cfg.Layout)
	}
	if err := ledger.RecordFile(cfg.Layout, cfg.Layout.RevisionCeiling()); err != nil {
		return err
	}
	return ledger.RecordKubeconfig(cfg.Layout, cfg.Server.Kubeconfig)
}

// keepNodeID writes down the id in the node's name, which is made anew otherwise.
func keepNodeID(cfg Config) error {
	if cfg.NodeID == "" {
		return nil
	}
	path := cfg.Layout.NodeID()
	if err := ledger.RecordFile(cfg.Layout, path); err != nil {
		return err
	}
	return atomicfile.Keep(path, []byte(cfg.NodeID+"\n"), 0o644)
}

// excludeFromProxy excludes from the environment's proxy what the node knows of its
// cluster. A machine that joins learns the ranges later.
func excludeFromProxy(cfg Config) error {
	what := []string{cfg.NodeName}
	if a := cfg.Agent; a != nil {
		what = append(what, proxyenv.Addresses(a.Addresses.IPs(), a.ExternalIPs)...)
	}
	if s := cfg.Server; s != nil {
		what = append(what, proxyenv.Addresses(s.Addresses.IPs(), s.ExternalIPs)...)
		what = append(what, proxyenv.Ranges(s.ClusterCIDRs, s.ServiceCIDRs)...)
		what = append(what, s.ClusterDomain)
		if s.AdvertiseAddress.IsValid() {
			what = append(what, proxyenv.Addresses([]netip.Addr{s.AdvertiseAddress})...)
		}
	}
	if err := proxyenv.Exclude(what...); err != nil {
		return fmt.Errorf("keeping the cluster out of the proxy: %w", err)
	}
	return nil
}
