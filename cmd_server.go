package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/util/validation"

	"brink/agent"
	"brink/internal/configfile"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/nodeaddr"
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
			return runServer(c.Context, settings, start)
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
	return configfile.Apply(values, c.IsSet, c.Set)
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

// settings are the flags, parsed.
type settings struct {
	layout       layout.Layout
	server       server.Config
	agent        agent.Config
	found        []nodeaddr.Address // of the machine, none when the user gave them
	ignored      []string           // what the user said in vain, a line each
	disableAgent bool
	pprof        bool
	configFile   string
}

func readSettings(c *cli.Context) (settings, error) {
	dir, err := dataDir(c)
	if err != nil {
		return settings{}, err
	}
	var errs []error
	keep := func(err error) { errs = append(errs, err) }
	l := layout.New(dir)
	if err := l.CheckLength(); err != nil && !c.Bool("disable-agent") {
		keep(fmt.Errorf("--data-dir=%w", err))
	}
	pods, err := prefixes(c, "cluster-cidr")
	keep(err)
	services, err := prefixes(c, "service-cidr")
	keep(err)
	dns, err := clusterDNS(c, services)
	keep(err)
	bind, err := netip.ParseAddr(c.String("bind-address"))
	if err != nil {
		keep(fmt.Errorf("--bind-address=%s: not an IP address", c.String("bind-address")))
	}
	name, err := nodeName(c.String("node-name"))
	keep(err)
	ips, found, err := nodeIPs(c, l, pods, services)
	keep(err)
	mode, err := fileMode(c.String("write-kubeconfig-mode"))
	keep(err)
	keep(checkLabels(values(c, "node-label")))
	keep(checkTaints(values(c, "node-taint")))
	ignored, err := checkOwned(c)
	keep(err)
	registries := c.String("private-registry")
	if _, err := os.Stat(registries); err != nil && c.IsSet("private-registry") {
		keep(fmt.Errorf("--private-registry=%s: %w", registries, err))
	}
	kubeconfig, err := kubeconfigPath(c, l)
	keep(err)
	if err := errors.Join(errs...); err != nil {
		return settings{}, err
	}
	tls := pki.Dir(l.TLS())
	return settings{
		layout:       l,
		found:        found,
		ignored:      ignored,
		disableAgent: c.Bool("disable-agent"),
		pprof:        c.Bool("enable-pprof"),
		server: server.Config{
			Layout: l, NodeName: name, NodeIPs: ips,
			BindAddress: bind, Port: c.Int("https-listen-port"), TLSSANs: values(c, "tls-san"),
			ClusterCIDRs: pods, ServiceCIDRs: services, ClusterDomain: c.String("cluster-domain"),
			DatastoreEndpoint: c.String("datastore-endpoint"), DatastoreCAFile: c.String("datastore-cafile"),
			DatastoreCertFile: c.String("datastore-certfile"), DatastoreKeyFile: c.String("datastore-keyfile"),
			DatastoreSetAsideDamaged: c.Bool("datastore-set-aside-damaged"),
			Kubeconfig:               kubeconfig, KubeconfigMode: mode,
			APIServerArgs: c.StringSlice("kube-apiserver-arg"), ControllerArgs: c.StringSlice("kube-controller-manager-arg"),
			SchedulerArgs: c.StringSlice("kube-scheduler-arg"), Debug: c.Bool("debug"),
		},
		agent: agent.Config{
			Layout: l, NodeName: name, NodeIPs: ips, Labels: values(c, "node-label"), Taints: values(c, "node-taint"),
			ClusterCIDRs: pods, ClusterDNS: dns, ClusterDomain: c.String("cluster-domain"),
			ServingCert: tls.Cert(pki.ServingKubelet), ServingKey: tls.Key(pki.ServingKubelet), ClientCA: tls.ClientCA(),
			RegistriesFile: registries, KubeletArgs: c.StringSlice("kubelet-arg"),
			ProxyArgs: c.StringSlice("kube-proxy-arg"), Debug: c.Bool("debug"),
		},
	}, nil
}

// kubeconfigPath is where the administrator's kubeconfig goes. Another node on
// the same machine keeps its own in its data directory: in /etc/brink it would
// take the place of the first one's.
func kubeconfigPath(c *cli.Context, l layout.Layout) (string, error) {
	if !c.IsSet("write-kubeconfig") && l.Data() != layout.DefaultData {
		return filepath.Join(l.Data(), filepath.Base(defaultKubeconfig())), nil
	}
	path := c.String("write-kubeconfig")
	if path == "" {
		return "", errors.New("--write-kubeconfig: must name a file")
	}
	return filepath.Abs(path)
}

// clusterDNS is the tenth address of the first service range unless given.
func clusterDNS(c *cli.Context, services []netip.Prefix) ([]netip.Addr, error) {
	given, err := addresses(c, "cluster-dns")
	if err != nil || len(given) > 0 || len(services) == 0 {
		return given, err
	}
	a := services[0].Masked().Addr()
	for range 10 {
		a = a.Next()
	}
	if !services[0].Contains(a) {
		return nil, fmt.Errorf("--service-cidr=%s: too small for a cluster DNS at its tenth address; give --cluster-dns", services[0])
	}
	return []netip.Addr{a}, nil
}

func nodeName(given string) (string, error) {
	name, flag := given, "--node-name="+given
	if given == "" {
		hostname, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("reading the host name: %w; give --node-name", err)
		}
		name, flag = strings.ToLower(hostname), "host name "+hostname
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return "", fmt.Errorf("%s: not usable as a node name: lower-case letters, digits, '-' and '.' only; give --node-name", flag)
	}
	return name, nil
}

// checkLabels wants KEY=VALUE as Kubernetes takes them.
func checkLabels(labels []string) error {
	var errs []error
	for _, label := range labels {
		key, value, ok := strings.Cut(label, "=")
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if !ok || len(problems) > 0 {
			errs = append(errs, fmt.Errorf("--node-label=%s: not a label such as zone=north", label))
		}
	}
	return errors.Join(errs...)
}

// checkTaints wants KEY[=VALUE]:EFFECT.
func checkTaints(taints []string) error {
	var errs []error
	for _, taint := range taints {
		rest, effect, _ := strings.Cut(taint, ":")
		key, value, _ := strings.Cut(rest, "=")
		problems := append(validation.IsQualifiedName(key), validation.IsValidLabelValue(value)...)
		if len(problems) > 0 || !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, effect) {
			errs = append(errs, fmt.Errorf("--node-taint=%s: not a taint such as dedicated=till:NoSchedule (or PreferNoSchedule, NoExecute)", taint))
		}
	}
	return errors.Join(errs...)
}

// verbosity is the highest "v" that any pass-through flag asks for: there is
// one log, and one verbosity, in one process.
func verbosity(c *cli.Context) int {
	highest := 0
	for _, name := range passThrough {
		for _, arg := range c.StringSlice(name) {
			if v, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "v="); ok {
				if n, err := strconv.Atoi(v); err == nil {
					highest = max(highest, n)
				}
			}
		}
	}
	return highest
}

// nodeIPs are those given or, for each family of pods, one that is found.
func nodeIPs(c *cli.Context, l layout.Layout, pods, services []netip.Prefix) ([]netip.Addr, []nodeaddr.Address, error) {
	given, err := addresses(c, "node-ip")
	if err != nil || len(given) > 0 || len(pods) == 0 {
		return given, nil, err
	}
	found, err := nodeaddr.Find(nodeaddr.Query{Families: pods, Inside: slices.Concat(pods, services), File: l.NodeAddresses()})
	for _, a := range found {
		given = append(given, a.IP)
	}
	return given, found, err
}

// rememberAddresses keeps what was found for a start without a network, and
// tells when this is one.
func rememberAddresses(s settings) error {
	isGone := func(a nodeaddr.Address) bool { return a.Gone }
	if slices.ContainsFunc(s.found, isGone) {
		slog.Warn("no interface has the node's address now, using the last one: connect the network or give --node-ip",
			"component", "brink", "address", nodeaddr.String(s.found))
	}
	if len(s.found) == 0 {
		return nil
	}
	return nodeaddr.Remember(s.layout.NodeAddresses(), s.found)
}

func fileMode(text string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 9)
	if err != nil {
		return 0, fmt.Errorf("--write-kubeconfig-mode=%s: not an octal file mode such as 600 or 644", text)
	}
	return fs.FileMode(mode), nil
}

const (
	// gcPercent makes garbage wait for half of the live heap instead of all of
	// it. Most of the heap of an idle node never changes; a collection costs it
	// some 50 ms of a core and then happens every other minute.
	gcPercent = 50
	// settleTime after becoming ready, what the start needed is given back.
	settleTime = 10 * time.Second
)

// runServer composes the server and the agent into one group and runs it.
func runServer(ctx context.Context, s settings, start *startLog) error {
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
	unlock, err := lockDataDir(s.layout)
	if err != nil {
		return err
	}
	defer unlock()
	if err := checkHost(s); err != nil {
		return err
	}
	if err := pki.CheckKubeconfig(s.server.Kubeconfig, pki.Dir(s.layout.TLS()).ServerCA()); err != nil {
		return fmt.Errorf("--write-kubeconfig: %w", err)
	}
	if err := rememberAddresses(s); err != nil {
		return err
	}
	if err := agent.RecordKubeconfig(s.layout, s.server.Kubeconfig); err != nil {
		return err
	}
	srv, err := server.New(s.server)
	if err != nil {
		return err
	}
	group := &lifecycle.Group{}
	ready := make(chan struct{})
	health, warnings := []func() error{srv.StoreHealth}, []func() error{srv.StoreWarning}
	status := statusServer{layout: s.layout, pprof: s.pprof}
	parts := srv.Components()
	if !s.disableAgent {
		s.agent.API, s.agent.Host = srv.ClientConfig, facts
		node, err := agent.New(s.agent)
		if err != nil {
			return err
		}
		parts = append(parts, node.Components()...)
		health = append(health, node.Health)
	}
	status.snapshot = snapshotter(s, group, begun, ready, health, warnings)
	group.Add(status.component())
	group.Add(parts...)
	for _, line := range s.ignored {
		slog.Warn(line, "component", "brink")
	}
	slog.Info("starting", "component", "brink", "version", version, "node", s.server.NodeName, "data", s.layout.Data())
	err = group.Run(ctx, func() {
		close(ready)
		start.drop()
		announce(s, time.Since(begun))
		time.AfterFunc(settleTime, debug.FreeOSMemory)
	})
	if err != nil {
		start.show()
	} else {
		slog.Info("stopped; pods keep running", "component", "brink")
	}
	return err
}

// announce tells people, scripts and systemd that the node is up.
func announce(s settings, took time.Duration) {
	what := fmt.Sprintf("node %s is Ready", s.server.NodeName)
	if s.disableAgent {
		what = "control plane is Ready"
	}
	fmt.Printf("brink: %s after %s; kubeconfig is %s\n", what, took.Round(10*time.Millisecond), s.server.Kubeconfig)
	if err := notifySystemd(notifySocket, "READY=1"); err != nil {
		slog.Warn("telling systemd that the node is ready", "component", "brink", "error", err)
	}
}

// snapshotter returns what `brink status` asks for. An error of health means that
// the node is not ready, one of warnings does not.
func snapshotter(s settings, group *lifecycle.Group, begun time.Time, ready <-chan struct{}, health, warnings []func() error) func() nodeStatus {
	role := "server"
	if s.disableAgent {
		role = "server without agent"
	}
	return func() nodeStatus {
		status := nodeStatus{
			Node: s.server.NodeName, Role: role, PID: os.Getpid(), Started: begun,
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

// said returns the errors of those that have one.
func said(checks []func() error) []string {
	var out []string
	for _, check := range checks {
		if err := check(); err != nil {
			out = append(out, err.Error())
		}
	}
	return out
}
