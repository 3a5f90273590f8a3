package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"k8s.io/client-go/rest"

	"brink/agent"
	"brink/agent/ledger"
	"brink/internal/componentargs"
	"brink/internal/datadir"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/network"
	"brink/server/pki"
)

// buildTime is set by the linker, in seconds since 1970: a clock that shows
// less is wrong.
var buildTime = "0"

// proxyHealthPort is kube-proxy's default.
const proxyHealthPort = 10256

// CheckSettings tries all flags, those of the embedded components too, as a start
// would. Nothing is started or written by that.
func CheckSettings(cfg Config) error {
	if cfg.Server != nil {
		if err := cfg.Server.Check(); err != nil {
			return err
		}
	}
	if cfg.Agent == nil {
		return nil
	}
	node := *cfg.Agent
	if node.Access != nil {
		access := *node.Access
		access.API = func(string, ...string) *rest.Config { return &rest.Config{} } // never asked
		node.Access = &access
	}
	var err error
	if node.Host, err = host.Look(); err != nil {
		return err
	}
	_, err = agent.New(node)
	return err
}

// HostChecks are those of `brink check` and of every start. pid is that of a
// brink that runs on the data directory, 0 when none does.
func HostChecks(cfg Config, pid int) []host.Check {
	opts := host.CheckOptions{
		DataDir:          cfg.Layout.Data(),
		NodeName:         cfg.NodeName,
		NotBefore:        builtAt(),
		PID:              pid,
		ControlPlaneOnly: cfg.Agent == nil,
		VXLAN:            cfg.mayUseVXLAN(),
		Ports:            cfg.ports(),
	}
	owned := datadir.Check(cfg.Layout)
	if owned != nil {
		opts.DataDir = "" // in what is not brink's nothing is tried out
	}
	checks := host.Checks(opts)
	if owned != nil {
		checks = append(checks, host.Check{Name: "data directory", Result: host.Fail, Message: owned.Error()})
	}
	if cfg.Agent != nil {
		checks = append(checks, otherKubelet(cfg.Layout)...)
	}
	for _, line := range cfg.Ignored {
		checks = append(checks, host.Check{Name: "flags", Result: host.Warn, Message: line, Fix: "remove it"})
	}
	if cfg.Server == nil || owned != nil {
		return checks
	}
	if err := pki.CheckClock(cfg.Layout.TLS(), time.Now()); err != nil {
		checks = append(checks, host.Check{Name: "certificates", Result: host.Fail, Message: err.Error()})
	}
	return checks
}

// ports are those on which the node listens.
func (c Config) ports() []host.Port {
	var out []host.Port
	if c.mayUseVXLAN() {
		out = append(out, host.Port{Number: network.DefaultVXLANPort, UDP: true, For: "pod network between nodes"})
	}
	if c.Server != nil {
		out = append(out, host.Port{Number: uint16(c.Server.Port), Address: listenAddress(c.Server.BindAddress), For: "API server", Flag: "--https-listen-port"})
	}
	if c.Agent != nil {
		out = append(out,
			host.Port{Number: componentargs.Port(c.Agent.KubeletArgs, "port", agent.KubeletPort), For: "kubelet", Flag: "--kubelet-arg=port=PORT"},
			host.Port{Number: componentargs.Port(c.Agent.ProxyArgs, "healthz-bind-address", proxyHealthPort), For: "service proxy's health", Flag: "--kube-proxy-arg=healthz-bind-address=ADDRESS:PORT"})
	}
	return out
}

// mayUseVXLAN reports whether the node may need a VXLAN. A machine that joins does not
// know before it has.
func (c Config) mayUseVXLAN() bool {
	return c.Server == nil || c.Agent != nil && c.Agent.Access.Backend == network.VXLAN
}

// listenAddress is the zero Addr for all addresses of the machine.
func listenAddress(bind netip.Addr) netip.Addr {
	if bind.IsUnspecified() {
		return netip.Addr{}
	}
	return bind
}

// otherKubelet refuses the directory of a kubelet that is not brink's.
func otherKubelet(l layout.Layout) []host.Check {
	pods := ledger.Strangers(l)
	if len(pods) == 0 {
		return nil
	}
	return []host.Check{{Name: "kubelet directory", Result: host.Fail,
		Message: fmt.Sprintf("%s has pods of another kubelet (%s), whose volumes this node's would remove", l.Kubelet(), pods[0]),
		Fix:     "uninstall that one, or remove " + l.Kubelet() + "/pods where nothing uses it, or give another --data-dir, which has a kubelet's directory of its own"}}
}

// builtAt is the time of the build, zero when it is not known.
func builtAt() time.Time {
	seconds, err := strconv.ParseInt(buildTime, 10, 64)
	if err != nil || seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// notRoot is the error of a start without root. Other checks fail then too, for
// no reason of their own.
func notRoot(cfg Config) error {
	isOther := func(c host.Check) bool { return c.Name != "root" }
	return host.Failed(slices.DeleteFunc(HostChecks(cfg, os.Getpid()), isOther))
}

// checkHost refuses to start on a machine that cannot work, before anything
// has been written or started. A unit that takes the pods down with brink is told
// at every start: its owner finds out in the moment of the first update. So are few
// files, of which a user hears in the moment of the first busy day.
func checkHost(cfg Config) error {
	checks := HostChecks(cfg, os.Getpid())
	for _, c := range checks {
		if (c.Name == host.UnitCheck || c.Name == host.FilesCheck) && c.Result == host.Warn {
			slog.Warn(c.String(), "component", "brink")
		}
	}
	return host.Failed(checks)
}
