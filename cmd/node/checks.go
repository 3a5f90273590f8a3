package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"brink/agent"
	"brink/agent/ledger"
	"brink/agent/proxy"
	"brink/internal/clock"
	"brink/internal/componentargs"
	"brink/internal/datadir"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/network"
	"brink/runtime/payload"
	"brink/server/pki"
)

// buildTime is set by the linker, in seconds since 1970. A clock that shows less is wrong.
var buildTime = "0"

// CheckSettings parses all flags as a start would, those of the embedded components too.
// Nothing is started or written. A machine that joins needs no token for it.
func CheckSettings(cfg Config) error {
	if cfg.Agent != nil {
		facts, err := host.Look()
		if err != nil {
			return err
		}
		node := *cfg.Agent
		node.Host = facts
		cfg.Agent = &node
	}
	if cfg.Server == nil {
		_, err := agent.New(*cfg.Agent)
		return err
	}
	_, err := compose(cfg, nil, time.Time{})
	return err
}

// HostChecks checks the machine, for `brink check`. pid is that of a brink which runs on
// the data directory, 0 for none.
func HostChecks(cfg Config, pid int) []host.Check { return hostChecks(cfg, pid, false) }

func hostChecks(cfg Config, pid int, isStart bool) []host.Check {
	opts := host.CheckOptions{
		DataDir:          cfg.Layout.Data(),
		NodeName:         cfg.NodeName,
		NotBefore:        builtAt(),
		Synchronized:     clock.Synchronized(),
		PID:              pid,
		Start:            isStart,
		ControlPlaneOnly: cfg.Agent == nil,
		VXLAN:            cfg.mayUseVXLAN(),
		NFT:              payload.NFTVersion(),
		Joins:            cfg.Server == nil,
		PodRange:         cfg.podRange(),
		Ports:            cfg.ports(),
	}
	owned := datadir.Check(cfg.Layout)
	if owned != nil {
		opts.DataDir = "" // nothing is written into a directory that is not brink's
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
	if cfg.Server == nil || owned != nil || willSetClock(checks) {
		return checks
	}
	if err := pki.CheckClock(cfg.Layout.TLS(), time.Now()); err != nil {
		checks = append(checks, host.Check{Name: "certificates", Result: host.Fail, Message: err.Error()})
	}
	return checks
}

// willSetClock reports whether a start sets the clock, also to after its certificates began.
func willSetClock(checks []host.Check) bool {
	return slices.ContainsFunc(checks, func(c host.Check) bool { return c.Name == host.ClockCheck && c.Result == host.Warn })
}

// ports returns the ports on which the node listens.
func (c Config) ports() []host.Port {
	var out []host.Port
	if c.mayUseVXLAN() {
		out = append(out, host.Port{Number: network.DefaultVXLANPort, UDP: true, For: "pod network between nodes", Public: true})
	}
	if c.Server != nil {
		out = append(out, host.Port{Number: uint16(c.Server.Port), Address: listenAddress(c.Server.BindAddress), For: "API server", Flag: "--https-listen-port", Public: true})
	}
	if c.Agent != nil {
		out = append(out,
			host.Port{Number: componentargs.Port(c.Agent.KubeletArgs, "port", agent.KubeletPort), For: "kubelet", Flag: "--kubelet-arg=port=PORT"},
			host.Port{Number: componentargs.Port(c.Agent.ProxyArgs, "healthz-bind-address", proxy.HealthPort), For: "service proxy's health", Flag: "--kube-proxy-arg=healthz-bind-address=ADDRESS:PORT"})
	}
	return out
}

// podRange returns the first range of the cluster's pods. A machine that joins does not know
// it yet.
func (c Config) podRange() string {
	if c.Server == nil || len(c.Server.ClusterCIDRs) == 0 {
		return ""
	}
	return c.Server.ClusterCIDRs[0].String()
}

// mayUseVXLAN reports whether the node may need a VXLAN. A machine learns that of its
// cluster when it joins.
func (c Config) mayUseVXLAN() bool {
	return c.Server == nil || c.Agent != nil && c.Agent.Access.Backend == network.VXLAN
}

// listenAddress returns bind, or the zero Addr if it stands for all addresses.
func listenAddress(bind netip.Addr) netip.Addr {
	if bind.IsUnspecified() {
		return netip.Addr{}
	}
	return bind
}

// otherKubelet returns a failed check if another kubelet uses the node's directory.
func otherKubelet(l layout.Layout) []host.Check {
	pods := ledger.ForeignPods(l)
	if len(pods) == 0 {
		return nil
	}
	return []host.Check{{Name: "kubelet directory", Result: host.Fail,
		Message: fmt.Sprintf("%s has pods of another kubelet (%s), whose volumes this node's would remove", l.Kubelet(), pods[0]),
		Fix:     "uninstall that one, or remove " + l.Kubelet() + "/pods where nothing uses it, or give another --data-dir, which has a kubelet's directory of its own"}}
}

// builtAt returns the time of the build, the zero Time if it is not known.
func builtAt() time.Time {
	seconds, err := strconv.ParseInt(buildTime, 10, 64)
	if err != nil || seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// notRoot returns the error of a start without root, alone: other checks fail then too,
// for no other reason.
func notRoot(cfg Config) error {
	isOther := func(c host.Check) bool { return c.Name != "root" }
	return host.Failed(slices.DeleteFunc(hostChecks(cfg, os.Getpid(), true), isOther))
}

// checkHost refuses to start on a machine that cannot work, before anything has been
// written or started. It logs two of the warnings at every start, since their owner would
// otherwise notice too late: a unit that stops the pods with brink shows only at the first
// update, a low limit of open files only on the first busy day.
func checkHost(cfg Config) error {
	checks := hostChecks(cfg, os.Getpid(), true)
	for _, c := range checks {
		if (c.Name == host.UnitCheck || c.Name == host.FilesCheck) && c.Result == host.Warn {
			slog.Warn(c.String(), "component", "brink")
		}
	}
	return host.Failed(checks)
}
