package cmd

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
	"brink/cmd/node"
	"brink/internal/datadir"
	"brink/internal/layout"
	"brink/network"
	"brink/network/nodeaddr"
	"brink/server"
	"brink/server/pki"
)

// readSettings reads the flags of a server.
func readSettings(c *cli.Context) (node.Config, error) {
	s, errs := readNode(c, c.Bool("disable-agent"))
	keep := func(err error) { errs = append(errs, err) }
	pods, err := prefixes(c, "cluster-cidr")
	keep(err)
	services, err := prefixes(c, "service-cidr")
	keep(err)
	dns, err := clusterDNS(c, services)
	keep(err)
	backend, err := networkBackend(c)
	keep(err)
	bind, err := netip.ParseAddr(c.String("bind-address"))
	if err != nil {
		keep(fmt.Errorf("--bind-address=%s: not an IP address", c.String("bind-address")))
	}
	advertise, err := advertised(c)
	keep(err)
	if len(s.Agent.NodeIPs) == 0 && len(pods) > 0 {
		s.Found, err = nodeaddr.Find(node.AddressQuery(s.Layout, pods, services))
		keep(err)
		s.Agent.NodeIPs, s.Agent.FindIPs = node.IPsOf(s.Found), node.FindIPs(s.Layout, s.Found)
	}
	mode, err := fileMode(c.String("write-kubeconfig-mode"))
	keep(err)
	kubeconfig, err := kubeconfigPath(c, s.Layout)
	keep(err)
	if err := errors.Join(errs...); err != nil {
		return node.Config{}, err
	}
	endpoint, err := datastoreEndpoint(c)
	if err != nil {
		return node.Config{}, err
	}
	s.Server = server.Config{
		Layout: s.Layout, NodeName: s.Agent.NodeName, NodeIPs: s.Agent.NodeIPs, HasAgent: !s.DisableAgent,
		ExternalIPs: s.Agent.ExternalIPs, AdvertiseAddress: advertise,
		BindAddress: bind, Port: c.Int("https-listen-port"), TLSSANs: values(c, "tls-san"),
		ClusterCIDRs: pods, ServiceCIDRs: services, ClusterDNS: dns,
		ClusterDomain: c.String("cluster-domain"), NetworkBackend: backend,
		DatastoreEndpoint: endpoint, DatastoreCAFile: c.String("datastore-cafile"),
		DatastoreCertFile: c.String("datastore-certfile"), DatastoreKeyFile: c.String("datastore-keyfile"),
		DatastoreMaxConnections: c.Int("datastore-max-open-connections"), DatastoreSetAsideDamaged: c.Bool("datastore-set-aside-damaged"),
		Kubeconfig: kubeconfig, KubeconfigMode: mode,
		APIServerArgs: c.StringSlice("kube-apiserver-arg"), ControllerArgs: c.StringSlice("kube-controller-manager-arg"),
		SchedulerArgs: c.StringSlice("kube-scheduler-arg"), Debug: s.Agent.Debug,
	}
	s.Agent.Access = serverAccess(s.Server, dns, network.Backend(backend))
	return s, nil
}

// advertised is --advertise-address, zero when it is not given.
func advertised(c *cli.Context) (netip.Addr, error) {
	text := c.String("advertise-address")
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return a, fmt.Errorf("--advertise-address=%s: not an IP address", text)
	}
	return a, reachable("advertise-address", a)
}

// onePerFamily wants at most one IPv4 and one IPv6 address: that is what the network
// and Kubernetes take for a node.
func onePerFamily(flag string, ips []netip.Addr) error {
	for i, a := range ips {
		for _, b := range ips[:i] {
			if a.Is4() == b.Is4() {
				return fmt.Errorf("--%s=%s,%s: two addresses of one family: give at most one IPv4 and one IPv6", flag, b, a)
			}
		}
	}
	return nil
}

// reachable says why no other machine can send to an address.
func reachable(flag string, a netip.Addr) error {
	if !nodeaddr.IsRoutable(a) {
		return fmt.Errorf("--%s=%s: other machines cannot send to it", flag, a)
	}
	return nil
}

// readNode reads what any node has. Its errors are for the caller to join with
// its own.
func readNode(c *cli.Context, withoutPods bool) (node.Config, []error) {
	var errs []error
	keep := func(err error) { errs = append(errs, err) }
	dir, err := dataDir(c)
	keep(err)
	l := datadir.Locate(dir)
	for _, err := range []error{l.CheckLength(), l.CheckColon()} {
		if err != nil && !withoutPods {
			keep(fmt.Errorf("--data-dir=%w", err))
		}
	}
	name, err := nodeName(c.String("node-name"))
	keep(err)
	ips, err := addresses(c, "node-ip")
	keep(err)
	keep(onePerFamily("node-ip", ips))
	for _, a := range ips {
		if err := reachable("node-ip", a); err != nil && !withoutPods {
			keep(err)
		}
	}
	external, err := addresses(c, "node-external-ip")
	keep(err)
	for _, a := range external {
		keep(reachable("node-external-ip", a))
	}
	keep(checkLabels(values(c, "node-label")))
	keep(checkTaints(values(c, "node-taint")))
	ignored, err := checkOwned(c)
	keep(err)
	keep(checkRegistries(c))
	s := node.Config{Layout: l, Ignored: ignored, DisableAgent: withoutPods, PProf: c.Bool("enable-pprof")}
	s.Agent = agent.Config{
		Layout: l, NodeName: name, NodeIPs: ips, ExternalIPs: external,
		Labels: values(c, "node-label"), Taints: values(c, "node-taint"),
		RegistriesFile: c.String("private-registry"), KubeletArgs: c.StringSlice("kubelet-arg"),
		ProxyArgs: c.StringSlice("kube-proxy-arg"), Debug: c.Bool("debug"),
	}
	if len(ips) == 0 {
		s.Agent.FindIPs = node.FindIPs(l, nil)
	}
	return s, errs
}

// serverAccess is that of the node beside a server, but for its API.
func serverAccess(srv server.Config, dns []netip.Addr, backend network.Backend) *agent.Access {
	tls := pki.Dir(srv.Layout.TLS())
	return &agent.Access{
		ServingCert: tls.Cert(pki.ServingKubelet), ServingKey: tls.Key(pki.ServingKubelet), ClientCA: tls.ClientCA(),
		ClusterCIDRs: srv.ClusterCIDRs, ServiceCIDRs: srv.ServiceCIDRs, ClusterDNS: dns,
		ClusterDomain: srv.ClusterDomain, Backend: backend,
	}
}

// kubeconfigPath is where the administrator's kubeconfig goes. Another node on
// the same machine keeps its own in its data directory: in /etc/brink it would
// take the place of the first one's.
func kubeconfigPath(c *cli.Context, l layout.Layout) (string, error) {
	if !c.IsSet("write-kubeconfig") && !l.IsDefault() {
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
	return min(highest, maxVerbosity)
}

// maxVerbosity is below the level at which Kubernetes' clients log the bodies of
// answers, Secrets with their values among them (client-go's logBody).
const maxVerbosity = 7

func fileMode(text string) (fs.FileMode, error) {
	mode, err := strconv.ParseUint(text, 8, 9)
	if err != nil {
		return 0, fmt.Errorf("--write-kubeconfig-mode=%s: not an octal file mode such as 600 or 644", text)
	}
	return fs.FileMode(mode), nil
}
