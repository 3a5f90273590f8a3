// Package node is one brink process on one machine.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"brink/agent"
	"brink/agent/join"
	"brink/agent/ledger"
	"brink/cmd/node/upstream"
	"brink/internal/datadir"
	"brink/internal/footprint"
	"brink/internal/host"
	"brink/internal/lifecycle"
	"brink/internal/proxyenv"
	"brink/server"
	"brink/server/pki"
)

// settleTime after becoming ready, what the start needed is given back.
const settleTime = 10 * time.Second

// Run makes the machine ready for a node and runs it.
func Run(ctx context.Context, s Config, globals *upstream.Globals) error {
	begun := time.Now()
	facts, err := host.Look()
	if err != nil {
		return err
	}
	if facts.EffectiveUID != 0 {
		return notRoot(s)
	}
	s.Agent.Host = facts
	if err := checkStart(s); err != nil {
		return err
	}
	unlock, err := takePlaces(s)
	if err != nil {
		return err
	}
	defer unlock()
	if err := makeRunDir(s.Layout.Run()); err != nil {
		return err
	}
	if err := excludeFromProxy(s); err != nil {
		return err
	}
	return runParts(ctx, s, globals, begun)
}

// takePlaces makes the directories this process's own until the returned function is
// called, the data directory before anything is written into it.
func takePlaces(s Config) (unlock func(), err error) {
	unlockData, err := lockDataDir(s.Layout)
	if err != nil {
		return nil, err
	}
	if err := prepare(s); err != nil {
		unlockData()
		return nil, err
	}
	if s.Join != nil {
		return unlockData, nil
	}
	unlockDatabase, err := lockDatabase(s.Layout)
	if err != nil {
		unlockData()
		return nil, err
	}
	return func() { unlockDatabase(); unlockData() }, nil
}

// runParts composes the server, the agent or both into one group and runs it.
func runParts(ctx context.Context, s Config, globals *upstream.Globals, begun time.Time) error {
	parts, err := compose(s)
	if err != nil {
		return err
	}
	group := &lifecycle.Group{}
	ready := make(chan struct{})
	status := statusServer{layout: s.Layout, pprof: s.PProf}
	status.snapshot = snapshotter(s, group, begun, ready, parts.health, parts.warnings)
	group.Add(status.component())
	group.Add(parts.components...)
	for _, line := range s.Ignored {
		slog.Warn(line, "component", "brink")
	}
	slog.Info("starting", "component", "brink", "version", version, "node", s.Agent.NodeName, "data", s.Layout.Data())
	defer context.AfterFunc(ctx, globals.Log.Stopping)()
	err = group.Run(ctx, func() {
		close(ready)
		globals.Log.Drop()
		announce(s, time.Since(begun), globals.NotifySocket)
		time.AfterFunc(settleTime, footprint.Trim)
	})
	if err != nil {
		globals.Log.Show()
	} else {
		globals.Log.Drop()
		slog.Info("stopped; pods keep running", "component", "brink")
	}
	return err
}

// parts are what a node is made of.
type parts struct {
	components       []lifecycle.Component
	health, warnings []func() error
}

// compose builds what the settings ask for.
func compose(s Config) (parts, error) {
	if s.Join != nil {
		return composeAgent(s)
	}
	srv, err := server.New(s.Server)
	if err != nil {
		return parts{}, err
	}
	out := parts{
		components: append([]lifecycle.Component{movedServer(s.Found, s.findAddresses, addressInterval)}, srv.Components()...),
		health:     []func() error{srv.StoreHealth},
		warnings:   []func() error{srv.StoreWarning},
	}
	if s.DisableAgent {
		return out, nil
	}
	s.Agent.Access.API, s.Agent.KubeletNeeds = srv.ClientConfig, []string{server.Controllers}
	return out.withAgent(s.Agent)
}

// composeAgent is compose for a machine without a server.
func composeAgent(s Config) (parts, error) {
	var err error
	if s.Agent.Join, err = join.New(*s.Join); err != nil {
		return parts{}, err
	}
	return parts{}.withAgent(s.Agent)
}

func (p parts) withAgent(cfg agent.Config) (parts, error) {
	node, err := agent.New(cfg)
	if err != nil {
		return parts{}, err
	}
	p.components = append(p.components, node.Components()...)
	p.health = append(p.health, node.Health)
	p.warnings = append(p.warnings, node.Warnings)
	return p, nil
}

// checkStart refuses what cannot work, before anything has been made: neither the
// data directory nor anything in it.
func checkStart(s Config) error {
	if err := checkLock(s.Layout); err != nil {
		return err // before the other brink's ports are found taken
	}
	if err := checkHost(s); err != nil {
		return err
	}
	if s.Join != nil {
		_, err := compose(s)
		return err
	}
	if err := pki.CheckKubeconfig(s.Server.Kubeconfig, pki.Dir(s.Layout.TLS()).ServerCA()); err != nil {
		return fmt.Errorf("--write-kubeconfig: %w", err)
	}
	return CheckSettings(s)
}

// prepare marks the data directory as brink's, and writes down what the next start
// and an uninstall need to know. The caller holds the data directory's lock. What only
// a database beyond a network can refuse comes after this, and the mark stays then:
// taking it back would leave the embedded programs and mounts of an agent that has
// begun meanwhile without an owner. The next start, or uninstalling, finds all of it.
func prepare(s Config) error {
	if err := datadir.Claim(s.Layout); err != nil {
		return err
	}
	if !s.DisableAgent {
		if err := datadir.MakeAgent(s.Layout); err != nil {
			return err
		}
	}
	if s.Join != nil {
		return ledger.RecordNodePassword(s.Layout)
	}
	if err := rememberAddresses(s); err != nil {
		return err
	}
	if err := ledger.RecordFile(s.Layout, s.Layout.RevisionCeiling()); err != nil {
		return err
	}
	return ledger.RecordKubeconfig(s.Layout, s.Server.Kubeconfig)
}

// announce tells people, scripts and systemd that the node is up.
func announce(s Config, took time.Duration, notifySocket string) {
	what := fmt.Sprintf("node %s is Ready", s.Agent.NodeName)
	if s.DisableAgent {
		what = "control plane is Ready"
	}
	where := ""
	if s.Join == nil {
		where = "; kubeconfig is " + s.Server.Kubeconfig
	}
	fmt.Printf("brink: %s after %s%s\n", what, took.Round(10*time.Millisecond), where)
	if err := notifySystemd(notifySocket, "READY=1"); err != nil {
		slog.Warn("telling systemd that the node is ready", "component", "brink", "error", err)
	}
}

// excludeFromProxy keeps what a node knows of its cluster out of the environment's
// proxy. A machine that joins hears of the ranges later.
func excludeFromProxy(s Config) error {
	what := append(proxyenv.Addresses(s.Agent.NodeIPs, s.Agent.ExternalIPs), s.Agent.NodeName)
	if s.Join == nil {
		what = append(what, proxyenv.Ranges(s.Server.ClusterCIDRs, s.Server.ServiceCIDRs)...)
		what = append(what, s.Server.ClusterDomain)
		if a := s.Server.AdvertiseAddress; a.IsValid() {
			what = append(what, proxyenv.Addresses([]netip.Addr{a})...)
		}
	}
	if err := proxyenv.Exclude(what...); err != nil {
		return fmt.Errorf("keeping the cluster out of the proxy: %w", err)
	}
	return nil
}
