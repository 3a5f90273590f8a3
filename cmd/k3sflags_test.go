package cmd

// k3sFlag are flags of k3s's server and agent of which the same is to be said. Those
// that k3s has given up are not among them.
type k3sFlag struct {
	names []string
	kind  string // same, differs, renamed or none
	note  string
}

func same(names ...string) k3sFlag { return k3sFlag{names, "same", ""} }

func differs(name, note string) k3sFlag { return k3sFlag{[]string{name}, "differs", note} }

func renamed(name, note string) k3sFlag { return k3sFlag{[]string{name}, "renamed", note} }

func none(note string, names ...string) k3sFlag { return k3sFlag{names, "none", note} }

// k3sFlags are what docs/coming-from-k3s.md says of k3s's flags. That brink has a flag
// or has it not is compared with its own.
var k3sFlags = []k3sFlag{
	same("bind-address", "https-listen-port", "advertise-address", "tls-san"),
	same("cluster-cidr", "service-cidr", "cluster-dns", "cluster-domain"),
	same("node-name", "with-node-id", "node-ip", "node-external-ip", "node-label", "node-taint", "disable-agent"),
	same("write-kubeconfig-mode", "debug", "enable-pprof"),
	same("datastore-cafile", "datastore-certfile", "datastore-keyfile"),
	same("kube-apiserver-arg", "kube-controller-manager-arg", "kube-scheduler-arg", "kubelet-arg", "kube-proxy-arg"),

	differs("config", "its default is `/etc/brink/config.yaml`"),
	differs("data-dir", "its default is `/var/lib/brink`; another one makes another node"),
	differs("write-kubeconfig", "its default is `/etc/brink/brink.yaml`; a file with others' clusters is refused"),
	differs("private-registry", "its default is `/etc/brink/registries.yaml`; `rewrite` is refused"),
	differs("flannel-backend", "see the backends below"),
	differs("server", "of an agent only"),
	differs("token", "of an agent only, and of another form; `brink token create` makes one"),
	differs("token-file", "of an agent only"),
	differs("datastore-endpoint", "PostgreSQL, MySQL, MariaDB or etcd, for one server; no endpoint means SQLite"),

	renamed("v", "`--kubelet-arg=v=N`; there is one log, and one level for all components"),
	renamed("resolv-conf", "`--kubelet-arg=resolv-conf=FILE`"),
	renamed("service-node-port-range", "`--kube-apiserver-arg=service-node-port-range=FROM-TO`"),
	renamed("image-credential-provider-bin-dir", "`--kubelet-arg=image-credential-provider-bin-dir=DIRECTORY`"),
	renamed("image-credential-provider-config", "`--kubelet-arg=image-credential-provider-config=FILE`"),
	renamed("protect-kernel-defaults", "`--kubelet-arg=protect-kernel-defaults=true`"),

	none("brink shares its log with all components, on standard error", "log", "alsologtostderr", "vmodule"),
	none("there is no packaged component to disable yet", "disable", "disable-cloud-controller", "disable-helm-controller", "disable-network-policy",
		"servicelb-namespace", "helm-job-image", "default-local-storage-path"),
	none("a server always runs all of its parts", "disable-scheduler", "disable-apiserver", "disable-controller-manager", "disable-etcd", "disable-kube-proxy"),
	none("there are no servers with embedded etcd yet; likewise all that begin with `--etcd-s3`", "cluster-init", "cluster-reset", "cluster-reset-restore-path", "etcd-arg", "etcd-expose-metrics",
		"etcd-disable-snapshots", "etcd-snapshot-name", "etcd-snapshot-schedule-cron", "etcd-snapshot-retention", "etcd-snapshot-dir", "etcd-snapshot-compress", "etcd-s3"),
	none("agents join by tokens of their own kind, never by the server's", "agent-token", "agent-token-file"),
	none("everything is served on the one port of the API server", "supervisor-port", "apiserver-port", "apiserver-bind-address", "advertise-port", "lb-server-port", "supervisor-metrics"),
	none("names are those of `--tls-san` and of the node, and no others", "tls-san-security"),
	none("the API server reaches nodes through their tunnels", "egress-selector-mode"),
	none("nodes send to each other's `--node-ip`; masquerading of IPv6 is always on", "flannel-external-ip", "flannel-ipv6-masq", "flannel-iface", "flannel-conf", "flannel-cni-conf"),
	none("use a VPN of your own and `--node-ip`", "vpn-auth", "vpn-auth-file"),
	none("kine is inside, and its socket for root only", "kine-tls"),
	none("`--kube-apiserver-arg=encryption-provider-config=FILE` is upstream's own way", "secrets-encryption"),
	none("containerd is always the one inside", "docker", "container-runtime-endpoint", "image-service-endpoint", "default-runtime", "prefer-bundled-bin"),
	none("brink chooses: overlayfs, or copies where it does not work", "snapshotter"),
	none("the pause image is in the binary", "pause-image", "system-default-registry", "airgap-extra-registry"),
	none("mirrors are set in `registries.yaml` alone", "disable-default-registry-endpoint", "embedded-registry"),
	none("containers get SELinux labels where the host's policy knows them", "selinux"),
	none("devices of a container belong to the user that it runs as", "nonroot-devices"),
	none("names of nodes are as they are given", "node-internal-dns", "node-external-dns"),
	none("brink needs root", "rootless"),
	none("its mode is set by `--write-kubeconfig-mode`, its group is root", "write-kubeconfig-group"),
	none("no cloud controller is embedded; one may run as a pod", "kube-cloud-controller-manager-arg"),
}
