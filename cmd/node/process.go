package node

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"brink/agent"
	"brink/agent/join"
	"brink/cmd/node/upstream"
	"brink/internal/footprint"
	"brink/internal/lifecycle"
	"brink/internal/release"
	"brink/server"
)

// settleTime is how long after becoming ready the node gives back the memory that its
// start needed.
const settleTime = 10 * time.Second

// process is a composed node: run starts it once.
type process struct {
	cfg     Config
	server  *server.Server // nil on a machine that joins
	globals *upstream.Globals
	begun   time.Time

	group lifecycle.Group
	ready atomic.Bool // all components have been

	// An error of health means that the node is not ready, one of warnings that it
	// may not be after the next restart.
	health, warnings []func() error
}

// compose builds the parts that cfg asks for, which checks their settings. Nothing is made or
// started. Its list of components begins with the one that answers `brink status`; the
// server's and the agent's follow, in start order.
func compose(cfg Config, globals *upstream.Globals, begun time.Time) (*process, error) {
	p := &process{cfg: cfg, globals: globals, begun: begun}
	p.group.Add(p.statusComponent())
	if cfg.Server != nil {
		srv, err := server.New(*cfg.Server)
		if err != nil {
			return nil, err
		}
		p.server = srv
		p.group.Add(srv.Components()...)
		p.health = append(p.health, srv.StoreHealth)
		p.warnings = append(p.warnings, srv.StoreWarning)
	}
	if cfg.Agent == nil {
		return p, nil
	}
	node, err := newAgent(cfg, p.server)
	if err != nil {
		return nil, err
	}
	p.group.Add(node.Components()...)
	p.health = append(p.health, node.Health)
	p.warnings = append(p.warnings, node.Warnings)
	return p, nil
}

// newAgent makes the agent beside srv, or the one that joins a cluster if srv is nil.
func newAgent(cfg Config, srv *server.Server) (*agent.Agent, error) {
	node := *cfg.Agent
	if srv == nil {
		var err error
		if node.Join, err = join.New(*cfg.Join); err != nil {
			return nil, err
		}
		return agent.New(node)
	}
	access := *node.Access
	access.API = srv.ClientConfig
	node.Access, node.KubeletNeeds = &access, []string{server.Controllers}
	return agent.New(node)
}

// run runs the components until ctx ends or one of them fails.
func (p *process) run(ctx context.Context) error {
	log := p.globals.Log
	for _, line := range p.cfg.Ignored {
		slog.Warn(line, "component", "brink")
	}
	slog.Info("starting", "component", "brink", "version", release.BuiltAs(), "node", p.cfg.NodeName, "data", p.cfg.Layout.Data())
	defer context.AfterFunc(ctx, log.Stopping)()
	go p.keepSystemdInformed(ctx)
	err := p.group.Run(ctx, func() {
		p.ready.Store(true)
		log.Drop()
		p.announce()
		time.AfterFunc(settleTime, footprint.Trim)
	})
	if err != nil {
		log.Show()
		p.tell("STATUS=ended: " + strings.ReplaceAll(err.Error(), "\n", "; "))
		return err
	}
	log.Drop()
	slog.Info("stopped; pods keep running", "component", "brink")
	return nil
}

// announce tells people, scripts and systemd that the node is up.
func (p *process) announce() {
	what, where := fmt.Sprintf("node %s is Ready", p.cfg.NodeName), ""
	if p.cfg.Agent == nil {
		what = "control plane is Ready"
	}
	if p.cfg.Server != nil {
		where = "; kubeconfig is " + p.cfg.Server.Kubeconfig
	}
	fmt.Printf("brink: %s after %s%s\n", what, time.Since(p.begun).Round(10*time.Millisecond), where)
	if err := notifySystemd(p.globals.NotifySocket, "READY=1"); err != nil {
		slog.Warn("telling systemd that the node is ready", "component", "brink", "error", err)
	}
}
