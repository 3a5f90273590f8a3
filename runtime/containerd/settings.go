package containerd

import (
	"path/filepath"

	"brink/internal/host"

	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/version"
)

const metadataPlugin = "io.containerd.metadata.v1.bolt"

// section is a table of containerd's configuration. Its keys are those of
// containerd's config.toml, version 4.
type section = map[string]any

// settings translates c to containerd's configuration. auths is containerd's
// table of registry credentials.
func (c Config) settings(snapshotter string, auths section) *srvconfig.Config {
	return &srvconfig.Config{
		Version: version.ConfigVersion,
		Root:    c.Layout.ContainerdRoot(),
		State:   c.Layout.ContainerdState(),
		// Without one of these there is no pod: better an error at start. Those
		// that others depend on are listed for the error to be their own.
		RequiredPlugins: []string{
			"io.containerd.content.v1.content",
			metadataPlugin,
			"io.containerd.grpc.v1.cri",
			"io.containerd.cri.v1.images",
			"io.containerd.cri.v1.runtime",
			"io.containerd.snapshotter.v1." + snapshotter,
			"io.containerd.server.v1.grpc",
			"io.containerd.server.v1.ttrpc",
		},
		DisabledPlugins: []string{
			// It registers with the process's metrics registry and would panic
			// there at the second start; nobody reads it.
			"io.containerd.metrics.v1.grpc-prometheus",
			// It wraps every request in a trace that goes nowhere.
			"io.containerd.metrics.v1.grpc-otel",
			"io.containerd.server.v1.grpc-tcp",
		},
		Timeouts: map[string]string{
			// A database that another process holds is an error, not a silent wait.
			"io.containerd.timeout.bolt.open": "10s",
			// A shim that has not answered by then at a start has its containers
			// killed. Upstream's five seconds are little for a board that reads them
			// back from a slow card while everything else starts; one that is gone is
			// known at once.
			"io.containerd.timeout.shim.load": "60s",
		},
		Plugins: section{
			"io.containerd.server.v1.grpc":           section{"address": c.Layout.ContainerdSocket()},
			"io.containerd.server.v1.ttrpc":          section{"address": c.Layout.ContainerdTTRPC()},
			"io.containerd.shim.v1.manager":          section{"socket_dir": c.Layout.ShimSockets()},
			"io.containerd.service.v1.diff-service":  section{"default": []string{syncedDiffer}},
			"io.containerd.cri.v1.images":            c.images(snapshotter, auths),
			"io.containerd.cri.v1.runtime":           c.runtime(),
			"io.containerd.grpc.v1.cri":              c.streaming(),
			"io.containerd.transfer.v1.local":        c.transfer(snapshotter),
			"io.containerd.snapshotter.v1.overlayfs": section{},
		},
	}
}

func (c Config) images(snapshotter string, auths section) section {
	return section{
		"snapshotter":   snapshotter,
		"pinned_images": section{"sandbox": c.PauseImage},
		"registry":      section{"config_path": c.Layout.RegistryHosts(), "configs": auths},
		// containerd's two ways to pull differ in what they support; credentials
		// from a configuration are known to this one only. Named, so that it is
		// not chosen by whether somebody has a password.
		"use_local_image_pull": true,
		// As containerd: more only compete for a slow link.
		"max_concurrent_downloads": 3,
		// Walks the writable layers. The kubelet acts on the numbers every 10 s
		// only near a full disk; a minute is soon enough for that and spares the
		// flash card the reads.
		"stats_collect_period": 60,
	}
}

func (c Config) runtime() section {
	return section{
		"enable_selinux":   c.Host.SELinux,
		"disable_apparmor": !c.Host.AppArmor,
		// Lowering one's OOM score needs this capability; nested hosts lack it.
		"restrict_oom_score_adj":       !c.Host.Capabilities.Has(host.CapSysResource),
		"netns_mounts_under_state_dir": true,
		"enable_unprivileged_ports":    true,
		"enable_unprivileged_icmp":     true,
		// A container given a device may use it as the user it runs as.
		"device_ownership_from_security_context": true,
		// The samples are for the CPU rate in CRI stats, which the kubelet takes
		// from cgroups itself. containerd's second asks every shim every second.
		"stats_collect_period":   "1m",
		"stats_retention_period": "2m",
		"cni": section{
			"bin_dirs":              []string{c.CNIBinDir},
			"conf_dir":              c.Layout.CNIConf(),
			"max_conf_num":          1,
			"use_internal_loopback": true,
		},
		"containerd": section{
			"default_runtime_name": "runc",
			"runtimes":             section{"runc": c.runc()},
		},
	}
}

func (c Config) runc() section {
	return section{
		"runtime_type": "io.containerd.runc.v2",
		"runtime_path": filepath.Join(c.BinDir, "containerd-shim-runc-v2"),
		"options": section{
			"BinaryName":    filepath.Join(c.BinDir, "runc"),
			"Root":          c.Layout.RuncState(),
			"SystemdCgroup": c.Host.SystemdCgroup(),
		},
	}
}

// streaming is the server of exec, attach and port-forward, which only the
// kubelet of this machine talks to.
func (c Config) streaming() section {
	return section{
		"disable_tcp_service":   true,
		"stream_server_address": "127.0.0.1",
		"stream_server_port":    "0",
	}
}

// transfer is what `ctr images import` uses, which should put an image where
// the CRI finds it.
func (c Config) transfer(snapshotter string) section {
	return section{
		"config_path": c.Layout.RegistryHosts(),
		"unpack_config": []section{{
			"platform":    "linux/" + c.Host.Arch,
			"snapshotter": snapshotter,
			"differ":      syncedDiffer,
		}},
	}
}
