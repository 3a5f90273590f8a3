package cmd

import (
	"strings"

	"github.com/urfave/cli/v2"

	"brink/datastore"
	"brink/internal/layout"
	"brink/internal/wire"
	"brink/network"
)

// Groups of flags in `brink server --help`.
const (
	groupNode      = "Node"
	groupNetwork   = "Network"
	groupAPI       = "API server"
	groupCluster   = "Cluster"
	groupData      = "Data"
	groupThrough   = "Passed through to Kubernetes"
	groupDebugging = "Debugging"
)

// env returns the environment variable of a flag: BRINK_DATA_DIR for data-dir.
func env(name string) []string {
	return []string{"BRINK_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}
}

func text(group, name, value, usage string) cli.Flag {
	return &cli.StringFlag{Name: name, Category: group, Value: value, Usage: usage, EnvVars: env(name)}
}

func list(group, name string, usage string, defaults ...string) cli.Flag {
	return &cli.StringSliceFlag{Name: name, Category: group, Usage: usage, Value: cli.NewStringSlice(defaults...), EnvVars: env(name)}
}

func toggle(group, name, usage string) cli.Flag {
	return &cli.BoolFlag{Name: name, Category: group, Usage: usage, EnvVars: env(name)}
}

func number(group, name string, value int, usage string) cli.Flag {
	return &cli.IntFlag{Name: name, Category: group, Value: value, Usage: usage, EnvVars: env(name)}
}

func dataDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "data-dir", Aliases: []string{"d"}, Category: groupData, Value: layout.DefaultData,
		Usage: "`DIRECTORY` of everything the node keeps; another one makes another node", EnvVars: env("data-dir")}
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Category: groupData, Value: layout.ConfigFile,
		Usage: "`FILE` whose keys are flag names; FILE.d/*.yaml is merged into it, flags and BRINK_* win", EnvVars: env("config")}
}

func writeKubeconfigFlag() cli.Flag {
	return text(groupAPI, "write-kubeconfig", defaultKubeconfig(), "`FILE` for the administrator's kubeconfig")
}

// nodeFlags are the flags that any node has.
func nodeFlags() []cli.Flag {
	return []cli.Flag{
		text(groupNode, "node-name", "", "`NAME` of the node (default: the host name)"),
		toggle(groupNode, "with-node-id", "append to the name an id that is this machine's, as names of machines such as raspberrypi repeat"),
		list(groupNode, "node-ip", "`IP` address of the node, one a family (default: that of the default route)"),
		list(groupNode, "node-external-ip", "`IP` address by which the node is reached from outside, one a family"),
		list(groupNode, "node-label", "`KEY=VALUE` label given to the node when it registers"),
		list(groupNode, "node-taint", "`KEY=VALUE:EFFECT` taint given to the node when it registers"),
		text(groupNode, "private-registry", layout.RegistriesFile, "`FILE` with mirrors and credentials of image registries, in k3s's format"),
		list(groupThrough, "kubelet-arg", "`NAME=VALUE` flag of the kubelet"),
		list(groupThrough, "kube-proxy-arg", "`NAME=VALUE` flag of kube-proxy"),
		dataDirFlag(),
		configFlag(),
		toggle(groupDebugging, "debug", "log what the embedded components do, as with v=4 of each; --kubelet-arg=v=N sets another level, up to 7"),
		toggle(groupDebugging, "enable-pprof", "serve profiles, for root: curl --unix-socket /run/brink/status.sock http://brink/debug/pprof/heap"),
	}
}

// joinFlags are the flags of a machine that joins a cluster.
func joinFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "server", Aliases: []string{"s"}, Category: groupCluster, Usage: "`URL` of a server of the cluster: https://HOST:6443", EnvVars: append([]string{"BRINK_URL"}, env("server")...)},
		&cli.StringFlag{Name: "token-file", Category: groupCluster, Usage: "`FILE` with the token to join with, from brink token create; needed once", EnvVars: []string{"BRINK_TOKEN_FILE"}},
		&cli.StringFlag{Name: "token", Aliases: []string{"t"}, Category: groupCluster, Usage: "the `TOKEN` itself", EnvVars: []string{"BRINK_TOKEN"}},
	}
}

// serverFlags are the flags of `brink server`.
func serverFlags() []cli.Flag {
	return append(nodeFlags(),
		list(groupNetwork, "cluster-cidr", "`RANGE` of pod addresses, one a family", network.DefaultClusterCIDR),
		list(groupNetwork, "service-cidr", "`RANGE` of Service addresses, one a family", network.DefaultServiceCIDR),
		list(groupNetwork, "cluster-dns", "`IP` of the cluster's DNS (default: the tenth address of service-cidr)"),
		text(groupNetwork, backendFlag, backends[0], "`HOW` pods reach pods on other nodes: "+strings.Join(backends, ", ")),
		text(groupNetwork, backendAlias, "", "the same as --"+backendFlag),
		text(groupNetwork, "cluster-domain", "cluster.local", "DNS `DOMAIN` of the cluster"),
		text(groupAPI, "bind-address", "0.0.0.0", "`IP` on which the API server listens"),
		text(groupAPI, "advertise-address", "", "`IP` by which agents and pods reach the API server (default: that of --node-external-ip, else of the node)"),
		number(groupAPI, "https-listen-port", wire.DefaultPort, "`PORT` on which the API server listens"),
		list(groupAPI, "tls-san", "`NAME` or IP by which the API server is also reached"),
		writeKubeconfigFlag(),
		text(groupAPI, "write-kubeconfig-mode", "600", "octal `MODE` of that file"),
		toggle(groupNode, "disable-agent", "run the control plane only, no pods on this machine"),
		text(groupData, "datastore-endpoint", "", "postgres://, mysql:// or etcd `URL` (default: SQLite in data-dir); if it holds a password, rather give it in a file"),
		text(groupData, "datastore-endpoint-file", "", "`FILE` with that URL"),
		text(groupData, "datastore-cafile", "", "`FILE` with the CA of the datastore"),
		text(groupData, "datastore-certfile", "", "`FILE` with the certificate shown to the datastore"),
		text(groupData, "datastore-keyfile", "", "`FILE` with the key of that certificate"),
		number(groupData, "datastore-max-open-connections", datastore.DefaultMaxOpenConnections, "`NUMBER` of connections to a PostgreSQL or MySQL at most, besides the one that watches it"),
		toggle(groupData, "datastore-set-aside-damaged", "rename a damaged database and start with an empty one"),
		toggle(groupData, "no-upgrade-snapshot", "make no snapshot before the first start of another version"),
		list(groupThrough, "kube-apiserver-arg", "`NAME=VALUE` flag of kube-apiserver"),
		list(groupThrough, "kube-controller-manager-arg", "`NAME=VALUE` flag of kube-controller-manager"),
		list(groupThrough, "kube-scheduler-arg", "`NAME=VALUE` flag of kube-scheduler"),
	)
}

// agentFlags are the flags of `brink agent`.
func agentFlags() []cli.Flag { return append(joinFlags(), nodeFlags()...) }

// allFlags are those of `brink server` and `brink agent`: a configuration file may hold
// any of them, and does not tell which of the two the machine is.
func allFlags() []cli.Flag { return append(serverFlags(), joinFlags()...) }
