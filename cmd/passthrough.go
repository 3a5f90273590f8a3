package cmd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"brink/internal/componentargs"
)

// managedFlag is a flag of an embedded component whose value brink decides.
type managedFlag struct {
	// name is that of the flag. With a * at its end it stands for all flags that begin
	// with it.
	name string
	// refused says what to do instead, or why there is nothing to set. Two flags for one
	// setting would disagree, and a node that silently does something else than its owner
	// wrote is worse than one that does not start.
	refused string
	// with names a flag of brink's own: the component's flag is refused only beside it.
	with string
	// ignored says why the flag does nothing here. One line at the start tells of it:
	// k3s's users have such flags in their files, and nothing breaks.
	ignored string
}

// Reasons that several flags have.
const (
	inMemory   = "brink's components reach the API server in memory"
	ownCerts   = "brink makes, knows and renews its certificates by itself"
	noPort     = "it opens no port of its own: metrics are on the API server's /metrics"
	noElection = "one server needs no leader"
	noLimit    = "requests inside of the process are not limited"
	oneLog     = "all components share brink's log: see --debug"
)

// managedFlags are those of each pass-through option. All others are the user's, even
// where they weaken a node: authorization-mode or anonymous-auth of the API server do
// what upstream does with them. The packages that embed the components refuse a few
// more: config files, other proxy modes, and what would let others into a kubelet.
var managedFlags = map[string][]managedFlag{
	"kube-apiserver-arg": append([]managedFlag{
		{name: "secure-port", refused: "use brink's own --https-listen-port"},
		{name: "bind-address", refused: "use brink's own --bind-address"},
		{name: "advertise-address", refused: "use brink's own --advertise-address"},
		{name: "service-cluster-ip-range", refused: "use brink's own --service-cidr"},
		{name: "tls-cert-file", refused: ownCerts + ", for further names use --tls-san"},
		{name: "tls-private-key-file", refused: ownCerts + ", for further names use --tls-san"},
		{name: "client-ca-file", refused: ownCerts},
		{name: "kubelet-certificate-authority", refused: ownCerts},
		{name: "kubelet-client-*", refused: ownCerts},
		{name: "etcd-servers", refused: "use brink's own --datastore-endpoint"},
		{name: "etcd-servers-overrides", refused: "brink decides where leases and events are kept"},
		{name: "etcd-prefix", refused: "brink checks and repairs the database by the keys below /registry"},
		{name: "etcd-cafile", refused: "use brink's own --datastore-cafile"},
		{name: "etcd-certfile", refused: "use brink's own --datastore-certfile"},
		{name: "etcd-keyfile", refused: "use brink's own --datastore-keyfile"},
	}, logFlags...),

	"kube-controller-manager-arg": append([]managedFlag{
		{name: "cluster-cidr", refused: "use brink's own --cluster-cidr"},
		{name: "service-cluster-ip-range", refused: "use brink's own --service-cidr"},
		{name: "service-account-private-key-file", refused: ownCerts},
		{name: "root-ca-file", refused: ownCerts},
		{name: "use-service-account-credentials", ignored: "each controller always has its own identity"},
	}, unservedFlags...),

	"kube-scheduler-arg": append([]managedFlag{
		{name: "write-config-to", refused: "brink does not write it"},
	}, unservedFlags...),

	"kubelet-arg": append([]managedFlag{
		{name: "hostname-override", refused: "use brink's own --node-name"},
		{name: "node-ip", refused: "use brink's own --node-ip"},
		{name: "cluster-dns", refused: "use brink's own --cluster-dns"},
		{name: "cluster-domain", refused: "use brink's own --cluster-domain"},
		{name: "node-labels", refused: "give all labels by --node-label, or all by this", with: "node-label"},
		{name: "register-with-taints", refused: "give all taints by --node-taint, or all by this", with: "node-taint"},
		{name: "root-dir", refused: "it follows from --data-dir"},
		{name: "container-runtime-endpoint", refused: "brink runs containerd by itself"},
		{name: "image-service-endpoint", refused: "brink runs containerd by itself"},
		{name: "kubeconfig", refused: inMemory},
		{name: "bootstrap-kubeconfig", refused: inMemory},
		{name: "client-ca-file", refused: ownCerts},
		{name: "tls-cert-file", refused: ownCerts},
		{name: "tls-private-key-file", refused: ownCerts},
		{name: "kube-api-qps", ignored: noLimit},
		{name: "kube-api-burst", ignored: noLimit},
	}, logFlags...),

	"kube-proxy-arg": append([]managedFlag{
		{name: "hostname-override", refused: "use brink's own --node-name"},
		{name: "bind-address", refused: "use brink's own --node-ip"},
		{name: "cluster-cidr", refused: "use brink's own --cluster-cidr"},
		{name: "detect-local-mode", refused: "pods are known by --cluster-cidr"},
		{name: "pod-bridge-interface", refused: "pods are known by --cluster-cidr"},
		{name: "pod-interface-name-prefix", refused: "pods are known by --cluster-cidr"},
		{name: "kubeconfig", refused: inMemory},
		{name: "master", refused: inMemory},
		{name: "write-config-to", refused: "brink does not write it"},
		{name: "init-only", refused: "brink runs nothing but a whole node"},
		{name: "cleanup", refused: "use brink uninstall"},
		{name: "kube-api-*", ignored: noLimit},
		{name: "profiling", ignored: "use --enable-pprof"},
	}, logFlags...),
}

// unservedFlags are common to the controllers and the scheduler, which open no port and
// elect no leader in this process.
var unservedFlags = append([]managedFlag{
	{name: "kubeconfig", refused: inMemory},
	{name: "master", refused: inMemory},
	{name: "authentication-*", ignored: noPort},
	{name: "authorization-*", ignored: noPort},
	{name: "requestheader-*", ignored: noPort},
	{name: "client-ca-file", ignored: noPort},
	{name: "secure-port", ignored: noPort},
	{name: "bind-address", ignored: noPort},
	{name: "cert-dir", ignored: noPort},
	{name: "tls-*", ignored: noPort},
	{name: "profiling", ignored: "use --enable-pprof"},
	{name: "leader-elect*", ignored: noElection},
	{name: "kube-api-*", ignored: noLimit},
}, logFlags...)

// logFlags are common to all components. Their v=N has an effect, see verbosity.
var logFlags = []managedFlag{
	{name: "logging-format", ignored: oneLog},
	{name: "log-flush-frequency", ignored: oneLog},
	{name: "vmodule", ignored: oneLog},
}

// checkManaged returns a line for each pass-through flag that does nothing, and an error
// for those that are refused.
func checkManaged(c *cli.Context) (ignored []string, err error) {
	var errs []error
	for _, option := range passThrough {
		for _, arg := range c.StringSlice(option) {
			own, ok := managedFlagOf(option, componentargs.Name(arg))
			switch {
			case !ok || own.with != "" && !c.IsSet(own.with):
			case own.refused != "":
				errs = append(errs, fmt.Errorf("--%s=%s: %s", option, arg, own.refused))
			default:
				ignored = append(ignored, fmt.Sprintf("--%s=%s has no effect: %s", option, arg, own.ignored))
			}
		}
	}
	return ignored, errors.Join(errs...)
}

// passThrough are the options whose values are flags of components.
var passThrough = []string{"kube-apiserver-arg", "kube-controller-manager-arg", "kube-scheduler-arg", "kubelet-arg", "kube-proxy-arg"}

func managedFlagOf(option, name string) (managedFlag, bool) {
	for _, own := range managedFlags[option] {
		prefix, all := strings.CutSuffix(own.name, "*")
		if name == own.name || all && strings.HasPrefix(name, prefix) {
			return own, true
		}
	}
	return managedFlag{}, false
}
