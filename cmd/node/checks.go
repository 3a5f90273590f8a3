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
func CheckSettings(s Config) error {
	if s.Join == nil {
		if err := s.Server.Check(); err != nil || s.DisableAgent {
			return err
		}
		access := *s.Agent.Access
		access.API = func(string, ...string) *rest.Config { return &rest.Config{} } // never asked
		s.Agent.Access = &access
	}
	var err error
	if s.Agent.Host, err = host.Look(); err != nil {
		return err
	}
	_, err = agent.New(s.Agent)
	return err
}

// HostChecks are those of `brink check` and of every start. pid is that of a
// brink that runs on the data directory, 0 when none does.
func HostChecks(s Config, pid int) []host.Check {
	opts := host.CheckOptions{
		DataDir:          s.Layout.Data(),
		NodeName:         s.Agent.NodeName,
		NotBefore:        builtAt(),
		PID:              pid,
		ControlPlaneOnly: s.DisableAgent,
		VXLAN:            s.mayUseVXLAN(),
	}
	if opts.VXLAN {
		opts.Ports = append(opts.Ports, host.Port{Number: network.DefaultVXLANPort, UDP: true, For: "pod network between nodes"})
	}
	if s.Join == nil {
		opts.Ports = append(opts.Ports, host.Port{Number: uint16(s.Server.Port), Address: listenAddress(s), For: "API server", Flag: "--https-listen-port"})
	}
	if !s.DisableAgent {
		opts.Ports = append(opts.Ports,
			host.Port{Number: componentargs.Port(s.Agent.KubeletArgs, "port", agent.KubeletPort), For: "kubelet", Flag: "--kubelet-arg=port=PORT"},
			host.Port{Number: componentargs.Port(s.Agent.ProxyArgs, "healthz-bind-address", proxyHealthPort), For: "service proxy's health", Flag: "--kube-proxy-arg=healthz-bind-address=ADDRESS:PORT"})
	}
	owned := datadir.Check(s.Layout)
	if owned != nil {
		opts.DataDir = "" // in what is not brink's nothing is tried out
	}
	checks := host.Checks(opts)
	if owned != nil {
		checks = append(checks, host.Check{Name: "data directory", Result: host.Fail, Message: owned.Error()})
	}
	if pods := ledger.Strangers(s.Layout); !s.DisableAgent && len(pods) > 0 {
		checks = append(checks, host.Check{Name: "kubelet directory", Result: host.Fail,
			Message: fmt.Sprintf("%s has pods of another kubelet (%s), whose volumes this node's would remove", s.Layout.Kubelet(), pods[0]),
			Fix:     "uninstall that one, or remove " + s.Layout.Kubelet() + "/pods where nothing uses it, or give another --data-dir, which has a kubelet's directory of its own"})
	}
	for _, line := range s.Ignored {
		checks = append(checks, host.Check{Name: "flags", Result: host.Warn, Message: line, Fix: "remove it"})
	}
	if s.Join != nil || owned != nil {
		return checks
	}
	if err := pki.CheckClock(s.Layout.TLS(), time.Now()); err != nil {
		checks = append(checks, host.Check{Name: "certificates", Result: host.Fail, Message: err.Error()})
	}
	return checks
}

// mayUseVXLAN: an agent does not know yet.
func (s Config) mayUseVXLAN() bool {
	return s.Join != nil || !s.DisableAgent && s.Agent.Access.Backend == network.VXLAN
}

func listenAddress(s Config) netip.Addr {
	if s.Server.BindAddress.IsUnspecified() {
		return netip.Addr{}
	}
	return s.Server.BindAddress
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
func notRoot(s Config) error {
	isOther := func(c host.Check) bool { return c.Name != "root" }
	return host.Failed(slices.DeleteFunc(HostChecks(s, os.Getpid()), isOther))
}

// checkHost refuses to start on a machine that cannot work, before anything
// has been written or started. A unit that takes the pods down with brink is told
// at every start: its owner finds out in the moment of the first update. So are few
// files, of which a user hears in the moment of the first busy day.
func checkHost(s Config) error {
	checks := HostChecks(s, os.Getpid())
	for _, c := range checks {
		if (c.Name == host.UnitCheck || c.Name == host.FilesCheck) && c.Result == host.Warn {
			slog.Warn(c.String(), "component", "brink")
		}
	}
	return host.Failed(checks)
}
