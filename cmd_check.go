package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/client-go/rest"

	"brink/agent"
	"brink/agent/ledger"
	"brink/internal/componentargs"
	"brink/internal/datadir"
	"brink/internal/host"
	"brink/network"
	"brink/server/pki"
)

// buildTime is set by the linker, in seconds since 1970: a clock that shows
// less is wrong.
var buildTime = "0"

// proxyHealthPort is kube-proxy's default.
const proxyHealthPort = 10256

func checkCommand() *cli.Command {
	flags := allFlags()
	return &cli.Command{
		Name:     "check",
		Usage:    "look whether this machine can be a node, before and after",
		Category: "Look",
		Description: "Takes the flags and the configuration file of `brink server`, or of `brink agent` when --server is\n" +
			"among them. Exits with 1 when something fails that keeps a node from working; warnings do not.",
		Flags: append(flags, outputFlag()),
		Action: func(c *cli.Context) error {
			asJSON, err := wantsJSON(c)
			if err != nil {
				return err
			}
			if err := applyConfigFile(c, flags); err != nil {
				return err
			}
			read := readSettings
			if c.IsSet("server") {
				// What an agent does not take is an error for it.
				if _, err := readConfigFile(c, agentFlags()); err != nil {
					return err
				}
				read = readAgentSettings
			}
			s, err := read(c)
			if err != nil {
				return err
			}
			if err := checkSettings(s); err != nil {
				return err
			}
			values, err := readConfigFile(c, flags)
			if err != nil {
				return err
			}
			facts, err := host.Look()
			if err != nil {
				return err
			}
			status, _ := askStatus(c.Context, s.layout) // no brink running is fine
			checks := slices.Concat(hostChecks(s, status.PID), checkSecretFiles(c, values), otherNetworks(s))
			if !s.disableAgent {
				checks = append(checks, agent.CheckReserved(facts, s.join == nil, s.agent.KubeletArgs))
			}
			return printChecks(checks, asJSON)
		},
	}
}

// checkSettings tries all flags, those of the embedded components too, as a start
// would. Nothing is started or written by that.
func checkSettings(s settings) error {
	if s.join == nil {
		if err := s.server.Check(); err != nil || s.disableAgent {
			return err
		}
		access := *s.agent.Access
		access.API = func(string, ...string) *rest.Config { return &rest.Config{} } // never asked
		s.agent.Access = &access
	}
	var err error
	if s.agent.Host, err = host.Look(); err != nil {
		return err
	}
	_, err = agent.New(s.agent)
	return err
}

func printChecks(checks []host.Check, asJSON bool) error {
	failed := 0
	for _, check := range checks {
		if check.Result == host.Fail {
			failed++
		}
	}
	if asJSON {
		if err := printJSON(checks); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
		for _, check := range checks {
			fmt.Fprintf(w, "%s\t%s\t%s\n", check.Result, check.Name, withFix(check))
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d checks failed", failed, len(checks))
	}
	return nil
}

func withFix(check host.Check) string {
	if check.Fix == "" {
		return check.Message
	}
	return check.Message + ": " + check.Fix
}

// hostChecks are those of `brink check` and of every start. pid is that of a
// brink that runs on the data directory, 0 when none does.
func hostChecks(s settings, pid int) []host.Check {
	opts := host.CheckOptions{
		DataDir:          s.layout.Data(),
		NodeName:         s.agent.NodeName,
		NotBefore:        builtAt(),
		PID:              pid,
		ControlPlaneOnly: s.disableAgent,
		VXLAN:            s.mayUseVXLAN(),
	}
	if opts.VXLAN {
		opts.Ports = append(opts.Ports, host.Port{Number: network.DefaultVXLANPort, UDP: true, For: "pod network between nodes"})
	}
	if s.join == nil {
		opts.Ports = append(opts.Ports, host.Port{Number: uint16(s.server.Port), Address: listenAddress(s), For: "API server", Flag: "--https-listen-port"})
	}
	if !s.disableAgent {
		opts.Ports = append(opts.Ports,
			host.Port{Number: componentargs.Port(s.agent.KubeletArgs, "port", agent.KubeletPort), For: "kubelet", Flag: "--kubelet-arg=port=PORT"},
			host.Port{Number: componentargs.Port(s.agent.ProxyArgs, "healthz-bind-address", proxyHealthPort), For: "service proxy's health", Flag: "--kube-proxy-arg=healthz-bind-address=ADDRESS:PORT"})
	}
	owned := datadir.Check(s.layout)
	if owned != nil {
		opts.DataDir = "" // in what is not brink's nothing is tried out
	}
	checks := host.Checks(opts)
	if owned != nil {
		checks = append(checks, host.Check{Name: "data directory", Result: host.Fail, Message: owned.Error()})
	}
	if pods := ledger.Strangers(s.layout); !s.disableAgent && len(pods) > 0 {
		checks = append(checks, host.Check{Name: "kubelet directory", Result: host.Fail,
			Message: fmt.Sprintf("%s has pods of another kubelet (%s), whose volumes this node's would remove", s.layout.Kubelet(), pods[0]),
			Fix:     "uninstall that one, or remove " + s.layout.Kubelet() + "/pods where nothing uses it, or give another --data-dir, which has a kubelet's directory of its own"})
	}
	for _, line := range s.ignored {
		checks = append(checks, host.Check{Name: "flags", Result: host.Warn, Message: line, Fix: "remove it"})
	}
	if s.join != nil || owned != nil {
		return checks
	}
	if err := pki.CheckClock(s.layout.TLS(), time.Now()); err != nil {
		checks = append(checks, host.Check{Name: "certificates", Result: host.Fail, Message: err.Error()})
	}
	return checks
}

// mayUseVXLAN: an agent does not know yet.
func (s settings) mayUseVXLAN() bool {
	return s.join != nil || !s.disableAgent && s.agent.Access.Backend == network.VXLAN
}

func listenAddress(s settings) netip.Addr {
	if s.server.BindAddress.IsUnspecified() {
		return netip.Addr{}
	}
	return s.server.BindAddress
}

func builtAt() time.Time {
	seconds, err := strconv.ParseInt(buildTime, 10, 64)
	if err != nil || seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// notRoot is the error of a start without root. Other checks fail then too, for
// no reason of their own.
func notRoot(s settings) error {
	isOther := func(c host.Check) bool { return c.Name != "root" }
	return host.Failed(slices.DeleteFunc(hostChecks(s, os.Getpid()), isOther))
}

// checkHost refuses to start on a machine that cannot work, before anything
// has been written or started. A unit that takes the pods down with brink is told
// at every start: its owner finds out in the moment of the first update. So are few
// files, of which a user hears in the moment of the first busy day.
func checkHost(s settings) error {
	checks := hostChecks(s, os.Getpid())
	for _, c := range checks {
		if (c.Name == host.UnitCheck || c.Name == host.FilesCheck) && c.Result == host.Warn {
			slog.Warn(c.String(), "component", "brink")
		}
	}
	return host.Failed(checks)
}
