package cmd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"brink/agent"
	"brink/agent/join"
	"brink/cmd/node"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/network"
	"brink/network/nodeaddr"
	"brink/server"
	"brink/server/pki"
)

// mistakes collects what is wrong with the flags, so that the user hears of all of it at
// once.
type mistakes []error

func (m *mistakes) add(err error) { *m = append(*m, err) }

// readServer reads the flags of a server.
func readServer(c *cli.Context) (node.Config, error) {
	withoutPods := c.Bool("disable-agent")
	cfg, wrong := readNode(c, withoutPods)
	srv := &server.Config{
		Layout: cfg.Layout, NodeName: cfg.NodeName, ExternalIPs: cfg.Agent.ExternalIPs, HasAgent: !withoutPods,
		Port: c.Int("https-listen-port"), TLSSANs: values(c, "tls-san"), ClusterDomain: c.String("cluster-domain"),
		DatastoreCAFile: c.String("datastore-cafile"), DatastoreCertFile: c.String("datastore-certfile"), DatastoreKeyFile: c.String("datastore-keyfile"),
		DatastoreMaxConnections: c.Int("datastore-max-open-connections"), DatastoreSetAsideDamaged: c.Bool("datastore-set-aside-damaged"),
		APIServerArgs: c.StringSlice("kube-apiserver-arg"), ControllerArgs: c.StringSlice("kube-controller-manager-arg"),
		SchedulerArgs: c.StringSlice("kube-scheduler-arg"), Debug: cfg.Agent.Debug,
	}
	readNetwork(c, srv, &wrong)
	var err error
	if srv.BindAddress, err = netip.ParseAddr(c.String("bind-address")); err != nil {
		wrong.add(fmt.Errorf("--bind-address=%s: not an IP address", c.String("bind-address")))
	}
	srv.AdvertiseAddress, err = advertised(c)
	wrong.add(err)
	srv.KubeconfigMode, err = fileMode(c.String("write-kubeconfig-mode"))
	wrong.add(err)
	srv.Kubeconfig, err = kubeconfigPath(c, cfg.Layout)
	wrong.add(err)
	srv.DatastoreEndpoint, err = datastoreEndpoint(c)
	wrong.add(err)
	srv.Addresses = cfg.Agent.Addresses
	if len(srv.ClusterCIDRs) > 0 {
		wrong.add(srv.Addresses.Find(srv.ClusterCIDRs, srv.ServiceCIDRs))
	}
	cfg.Server, cfg.Agent.Access = srv, accessOf(srv)
	cfg.NoUpgradeSnapshot = c.Bool("no-upgrade-snapshot")
	if withoutPods {
		cfg.Agent = nil
	}
	return cfg, errors.Join(wrong...)
}

// readNetwork reads the cluster's ranges, its DNS and how pods reach each other.
func readNetwork(c *cli.Context, srv *server.Config, wrong *mistakes) {
	var err error
	srv.ClusterCIDRs, err = prefixes(c, "cluster-cidr")
	wrong.add(err)
	srv.ServiceCIDRs, err = prefixes(c, "service-cidr")
	wrong.add(err)
	srv.ClusterDNS, err = clusterDNS(c, srv.ServiceCIDRs)
	wrong.add(err)
	srv.NetworkBackend, err = networkBackend(c)
	wrong.add(err)
}

// readAgent reads the flags of a machine that joins.
func readAgent(c *cli.Context) (node.Config, error) {
	cfg, wrong := readNode(c, false)
	server, err := serverOf(c)
	wrong.add(err)
	token, tokenErr := tokenOf(c)
	cfg.Join = &join.Config{Server: server, Token: token, TokenError: tokenErr, NodeName: cfg.NodeName, Layout: cfg.Layout}
	return cfg, errors.Join(wrong...)
}

// readNode reads the flags that any node has. The returned Config has an Agent also for
// a server without pods, whose addresses the server needs.
func readNode(c *cli.Context, withoutPods bool) (node.Config, mistakes) {
	var wrong mistakes
	dir, err := dataDir(c)
	wrong.add(err)
	l := datadir.Locate(dir)
	if !withoutPods {
		wrong.add(checkDataDir(l))
	}
	name, err := nodeName(c.String("node-name"))
	wrong.add(err)
	id := ""
	if c.Bool("with-node-id") {
		name, id, err = withNodeID(name, l)
		wrong.add(err)
	}
	own, external := readAddresses(c, l, withoutPods, &wrong)
	wrong.add(checkLabels(values(c, "node-label")))
	wrong.add(checkTaints(values(c, "node-taint")))
	ignored, err := checkManaged(c)
	wrong.add(err)
	wrong.add(checkRegistries(c))
	cfg := node.Config{Layout: l, NodeName: name, NodeID: id, Ignored: ignored, PProf: c.Bool("enable-pprof")}
	cfg.Agent = &agent.Config{
		Layout: l, NodeName: name, Addresses: own, ExternalIPs: external,
		Labels: values(c, "node-label"), Taints: values(c, "node-taint"),
		RegistriesFile: c.String("private-registry"), KubeletArgs: c.StringSlice("kubelet-arg"),
		ProxyArgs: c.StringSlice("kube-proxy-arg"), Debug: c.Bool("debug"),
	}
	return cfg, wrong
}

// readAddresses reads the addresses of the node, which other machines must be able to
// send to if it runs pods.
func readAddresses(c *cli.Context, l layout.Layout, withoutPods bool, wrong *mistakes) (own *nodeaddr.Watcher, external []netip.Addr) {
	ips, err := addresses(c, "node-ip")
	wrong.add(err)
	wrong.add(onePerFamily("node-ip", ips))
	for _, a := range ips {
		if !withoutPods {
			wrong.add(reachable("node-ip", a))
		}
	}
	external, err = addresses(c, "node-external-ip")
	wrong.add(err)
	for _, a := range external {
		wrong.add(reachable("node-external-ip", a))
	}
	if len(ips) == 0 {
		return nodeaddr.NewWatcher(l.NodeAddresses()), external
	}
	return nodeaddr.Given(ips...), external
}

// checkDataDir refuses a data directory whose path a kubelet cannot use.
func checkDataDir(l layout.Layout) error {
	var wrong mistakes
	for _, err := range []error{l.CheckLength(), l.CheckColon()} {
		if err != nil {
			wrong.add(fmt.Errorf("--data-dir=%w", err))
		}
	}
	return errors.Join(wrong...)
}

// accessOf returns the access of the node beside a server, without its API: that comes
// with the server.
func accessOf(srv *server.Config) *agent.Access {
	tls := pki.Dir(srv.Layout.TLS())
	return &agent.Access{
		ServingCert: tls.Cert(pki.ServingKubelet), ServingKey: tls.Key(pki.ServingKubelet), ClientCA: tls.ClientCA(),
		ClusterCIDRs: srv.ClusterCIDRs, ServiceCIDRs: srv.ServiceCIDRs, ClusterDNS: srv.ClusterDNS,
		ClusterDomain: srv.ClusterDomain, Backend: network.Backend(srv.NetworkBackend),
	}
}

// kubeconfigPath returns where the administrator's kubeconfig goes. A second node on the
// same machine keeps its own in its data directory: in /etc/brink it would replace that
// of the first.
func kubeconfigPath(c *cli.Context, l layout.Layout) (string, error) {
	if !c.IsSet("write-kubeconfig") && !l.IsDefault() {
		return l.Kubeconfig(), nil
	}
	path := c.String("write-kubeconfig")
	if path == "" {
		return "", errors.New("--write-kubeconfig: must name a file")
	}
	return filepath.Abs(path)
}

// checkRegistries refuses a file that is named and not there; the default one may be
// missing.
func checkRegistries(c *cli.Context) error {
	path := c.String("private-registry")
	if _, err := os.Stat(path); err != nil && c.IsSet("private-registry") {
		return fmt.Errorf("--private-registry=%s: %w", path, err)
	}
	return nil
}

// verbosity returns the highest "v" that any pass-through flag asks for: a process has
// one log, and one verbosity.
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
	return min(highest, maxVerbosity)
}

// maxVerbosity is below the level at which Kubernetes' clients log the bodies of
// answers, among them Secrets with their values (client-go's logBody).
const maxVerbosity = 7
