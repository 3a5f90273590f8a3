package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/util/validation"

	"brink/agent"
	"brink/internal/layout"
	"brink/internal/nodeaddr"
	"brink/server"
	"brink/server/pki"
)

// settings are the flags, parsed.
type settings struct {
	layout       layout.Layout
	server       server.Config
	agent        agent.Config
	found        []nodeaddr.Address // of the machine, none when the user gave them
	ignored      []string           // what the user said in vain, a line each
	disableAgent bool
	pprof        bool
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
	keep(checkRegistries(c))
	kubeconfig, err := kubeconfigPath(c, l)
	keep(err)
	if err := errors.Join(errs...); err != nil {
		return settings{}, err
	}
	srv := server.Config{
		Layout: l, NodeName: name, NodeIPs: ips, HasAgent: !c.Bool("disable-agent"),
		BindAddress: bind, Port: c.Int("https-listen-port"), TLSSANs: values(c, "tls-san"),
		ClusterCIDRs: pods, ServiceCIDRs: services, ClusterDomain: c.String("cluster-domain"),
		DatastoreEndpoint: c.String("datastore-endpoint"), DatastoreCAFile: c.String("datastore-cafile"),
		DatastoreCertFile: c.String("datastore-certfile"), DatastoreKeyFile: c.String("datastore-keyfile"),
		DatastoreSetAsideDamaged: c.Bool("datastore-set-aside-damaged"),
		Kubeconfig:               kubeconfig, KubeconfigMode: mode,
		APIServerArgs: c.StringSlice("kube-apiserver-arg"), ControllerArgs: c.StringSlice("kube-controller-manager-arg"),
		SchedulerArgs: c.StringSlice("kube-scheduler-arg"), Debug: c.Bool("debug"),
	}
	return settings{
		layout:       l,
		server:       srv,
		agent:        agentConfig(c, srv, dns),
		found:        found,
		ignored:      ignored,
		disableAgent: c.Bool("disable-agent"),
		pprof:        c.Bool("enable-pprof"),
	}, nil
}

// agentConfig is that of the node beside a server.
func agentConfig(c *cli.Context, srv server.Config, dns []netip.Addr) agent.Config {
	tls := pki.Dir(srv.Layout.TLS())
	return agent.Config{
		Layout: srv.Layout, NodeName: srv.NodeName, NodeIPs: srv.NodeIPs,
		Labels: values(c, "node-label"), Taints: values(c, "node-taint"),
		ClusterCIDRs: srv.ClusterCIDRs, ClusterDNS: dns, ClusterDomain: srv.ClusterDomain,
		ServingCert: tls.Cert(pki.ServingKubelet), ServingKey: tls.Key(pki.ServingKubelet), ClientCA: tls.ClientCA(),
		RegistriesFile: c.String("private-registry"), KubeletArgs: c.StringSlice("kubelet-arg"),
		ProxyArgs: c.StringSlice("kube-proxy-arg"), Debug: srv.Debug,
	}
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

// checkRegistries wants the file only when it was asked for.
func checkRegistries(c *cli.Context) error {
	path := c.String("private-registry")
	if _, err := os.Stat(path); err != nil && c.IsSet("private-registry") {
		return fmt.Errorf("--private-registry=%s: %w", path, err)
	}
	return nil
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
	found, err := nodeaddr.Find(addressQuery(l, pods, services))
	for _, a := range found {
		given = append(given, a.IP)
	}
	return given, found, err
}

func fileMode(text string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 9)
	if err != nil {
		return 0, fmt.Errorf("--write-kubeconfig-mode=%s: not an octal file mode such as 600 or 644", text)
	}
	return fs.FileMode(mode), nil
}
