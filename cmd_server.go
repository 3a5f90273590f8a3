package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"brink/agent"
	"brink/agent/join"
	"brink/agent/ledger"
	"brink/internal/configfile"
	"brink/internal/datadir"
	"brink/internal/footprint"
	"brink/internal/host"
	"brink/internal/lifecycle"
	"brink/server"
	"brink/server/pki"
)

func serverCommand() *cli.Command {
	flags := serverFlags()
	return &cli.Command{
		Name:     "server",
		Usage:    "run the control plane and, unless --disable-agent, pods",
		Category: "Run",
		Description: "Runs in the foreground and logs to standard error; `brink: node NAME is Ready` on standard\n" +
			"output says that pods can run. SIGTERM stops it and leaves the pods running: the next\n" +
			"start takes them up again.",
		Flags: flags,
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return fmt.Errorf("brink server takes no arguments, got %q", c.Args().First())
			}
			if err := applyConfigFile(c, flags); err != nil {
				return err
			}
			start := setGlobals(c.Bool("debug"), verbosity(c))
			settings, err := readSettings(c)
			if err != nil {
				return err
			}
			forgetSecrets()
			return runNode(c.Context, settings, start)
		},
	}
}

// applyConfigFile sets the flags that the configuration files give and that
// neither the command line nor the environment has set.
func applyConfigFile(c *cli.Context, flags []cli.Flag) error {
	values, err := readConfigFile(c, flags)
	if err != nil {
		return err
	}
	return configfile.Apply(values, givenIn(c), c.Set)
}

// readConfigFile reads the files that --config names; their keys are the names
// of flags.
func readConfigFile(c *cli.Context, flags []cli.Flag) ([]configfile.Value, error) {
	known := map[string]configfile.Kind{}
	for _, f := range flags {
		name := f.Names()[0]
		switch f.(type) {
		case *cli.BoolFlag:
			known[name] = configfile.Bool
		case *cli.StringSliceFlag:
			known[name] = configfile.List
		default:
			known[name] = configfile.Scalar
		}
	}
	delete(known, "config") // a file that names its own place
	return configfile.Load(c.String("config"), c.IsSet("config"), known)
}

const (
	// gcPercent makes garbage wait for half of the live heap instead of all of
	// it. Most of the heap of an idle node never changes; a collection costs it
	// some 50 ms of a core and then happens every other minute.
	gcPercent = 50
	// settleTime after becoming ready, what the start needed is given back.
	settleTime = 10 * time.Second
)

// runNode makes the machine ready for a node and runs it.
func runNode(ctx context.Context, s settings, start *startLog) error {
	begun := time.Now()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	facts, err := host.Look()
	if err != nil {
		return err
	}
	if facts.EffectiveUID != 0 {
		return notRoot(s)
	}
	s.agent.Host = facts
	if err := checkStart(s); err != nil {
		return err
	}
	unlock, err := takePlaces(s)
	if err != nil {
		return err
	}
	defer unlock()
	if err := makeRunDir(s.layout.Run()); err != nil {
		return err
	}
	if err := excludeFromProxy(s); err != nil {
		return err
	}
	return runParts(ctx, s, start, begun)
}

// takePlaces makes the directories this process's own until the returned function is
// called, the data directory before anything is written into it.
func takePlaces(s settings) (unlock func(), err error) {
	unlockData, err := lockDataDir(s.layout)
	if err != nil {
		return nil, err
	}
	if err := prepare(s); err != nil {
		unlockData()
		return nil, err
	}
	if s.join != nil {
		return unlockData, nil
	}
	unlockDatabase, err := lockDatabase(s.layout)
	if err != nil {
		unlockData()
		return nil, err
	}
	return func() { unlockDatabase(); unlockData() }, nil
}

// runParts composes the server, the agent or both into one group and runs it.
func runParts(ctx context.Context, s settings, start *startLog, begun time.Time) error {
	parts, err := compose(s)
	if err != nil {
		return err
	}
	group := &lifecycle.Group{}
	ready := make(chan struct{})
	status := statusServer{layout: s.layout, pprof: s.pprof}
	status.snapshot = snapshotter(s, group, begun, ready, parts.health, parts.warnings)
	group.Add(status.component())
	group.Add(parts.components...)
	for _, line := range s.ignored {
		slog.Warn(line, "component", "brink")
	}
	slog.Info("starting", "component", "brink", "version", version, "node", s.agent.NodeName, "data", s.layout.Data())
	defer context.AfterFunc(ctx, start.stopping)()
	err = group.Run(ctx, func() {
		close(ready)
		start.drop()
		announce(s, time.Since(begun))
		time.AfterFunc(settleTime, footprint.Trim)
	})
	if err != nil {
		start.show()
	} else {
		start.drop()
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
func compose(s settings) (parts, error) {
	if s.join != nil {
		return composeAgent(s)
	}
	srv, err := server.New(s.server)
	if err != nil {
		return parts{}, err
	}
	out := parts{
		components: append([]lifecycle.Component{movedServer(s.found, s.findAddresses, addressInterval)}, srv.Components()...),
		health:     []func() error{srv.StoreHealth},
		warnings:   []func() error{srv.StoreWarning},
	}
	if s.disableAgent {
		return out, nil
	}
	s.agent.Access.API, s.agent.KubeletNeeds = srv.ClientConfig, []string{server.Controllers}
	return out.withAgent(s.agent)
}

// composeAgent is compose for a machine without a server.
func composeAgent(s settings) (parts, error) {
	var err error
	if s.agent.Join, err = join.New(*s.join); err != nil {
		return parts{}, err
	}
	return parts{}.withAgent(s.agent)
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
func checkStart(s settings) error {
	if err := checkLock(s.layout); err != nil {
		return err // before the other brink's ports are found taken
	}
	if err := checkHost(s); err != nil {
		return err
	}
	if s.join != nil {
		_, err := compose(s)
		return err
	}
	if err := pki.CheckKubeconfig(s.server.Kubeconfig, pki.Dir(s.layout.TLS()).ServerCA()); err != nil {
		return fmt.Errorf("--write-kubeconfig: %w", err)
	}
	return checkSettings(s)
}

// prepare marks the data directory as brink's, and writes down what the next start
// and an uninstall need to know. The caller holds the data directory's lock. What only
// a database beyond a network can refuse comes after this, and the mark stays then:
// taking it back would leave the embedded programs and mounts of an agent that has
// begun meanwhile without an owner. The next start, or uninstalling, finds all of it.
func prepare(s settings) error {
	if err := datadir.Claim(s.layout); err != nil {
		return err
	}
	if !s.disableAgent {
		if err := datadir.MakeAgent(s.layout); err != nil {
			return err
		}
	}
	if s.join != nil {
		return ledger.RecordNodePassword(s.layout)
	}
	if err := rememberAddresses(s); err != nil {
		return err
	}
	if err := ledger.RecordFile(s.layout, s.layout.RevisionCeiling()); err != nil {
		return err
	}
	return ledger.RecordKubeconfig(s.layout, s.server.Kubeconfig)
}

// announce tells people, scripts and systemd that the node is up.
func announce(s settings, took time.Duration) {
	what := fmt.Sprintf("node %s is Ready", s.agent.NodeName)
	if s.disableAgent {
		what = "control plane is Ready"
	}
	where := ""
	if s.join == nil {
		where = "; kubeconfig is " + s.server.Kubeconfig
	}
	fmt.Printf("brink: %s after %s%s\n", what, took.Round(10*time.Millisecond), where)
	if err := notifySystemd(notifySocket, "READY=1"); err != nil {
		slog.Warn("telling systemd that the node is ready", "component", "brink", "error", err)
	}
}

// snapshotter returns what `brink status` asks for. An error of health means that
// the node is not ready, one of warnings does not.
func snapshotter(s settings, group *lifecycle.Group, begun time.Time, ready <-chan struct{}, health, warnings []func() error) func() nodeStatus {
	role := "server"
	switch {
	case s.join != nil:
		role = "agent"
	case s.disableAgent:
		role = "server without agent"
	}
	return func() nodeStatus {
		status := nodeStatus{
			Node: s.agent.NodeName, Role: role, PID: os.Getpid(), Started: begun,
			DataDir: s.layout.Data(), Components: group.Status(), Versions: versions(),
		}
		select {
		case <-ready:
			status.Ready = true
		default:
		}
		status.Problems, status.Warnings = said(health), said(warnings)
		status.Ready = status.Ready && len(status.Problems) == 0
		return status
	}
}

// said returns the errors of those that have some, a line each.
func said(checks []func() error) []string {
	var out []string
	for _, check := range checks {
		if err := check(); err != nil {
			out = append(out, strings.Split(err.Error(), "\n")...)
		}
	}
	return out
}
