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

// settings returns containerd's configuration. auths is its table of credentials for
// registries.
func (c Config) settings(snapshotter string, auths section) *srvconfig.Config {
	return &srvconfig.Config{
		Version: version.ConfigVersion,
		Root:    c.Layout.ContainerdRoot(),
		State:   c.Layout.ContainerdState(),
		// No pod runs without these, so a start fails when one does. Those that others
		// depend on are listed too, so that the error names the one at fault.
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
			// It registers with the process's metrics registry, where the second start
			// would panic, and nobody reads it.
			"io.containerd.metrics.v1.grpc-prometheus",
			// It wraps every request in a trace that goes nowhere.
			"io.containerd.metrics.v1.grpc-otel",
		},
		Timeouts: map[string]string{
			// A database that another process holds is an error, not a silent wait.
			"io.containerd.timeout.bolt.open": "10s",
			// The containers of a shim that does not answer a start by then are killed.
			// Upstream's five seconds are too short for a board that reads shims back from
			// a slow card while everything else starts. A shim that has ended is known at
			// once.
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

// images configures where images come from and how they are kept.
func (c Config) images(snapshotter string, auths section) section {
	return section{
		"snapshotter":   snapshotter,
		"pinned_images": section{"sandbox": c.PauseImage},
		"registry":      section{"config_path": c.Layout.RegistryHosts(), "configs": auths},
		// containerd pulls in two ways that support different things: only this one
		// knows credentials from a configuration. It is set, so that the choice does not
		// depend on whether there is a password.
		"use_local_image_pull": true,
		// containerd's default: more would only compete for a slow link.
		"max_concurrent_downloads": 3,
		// This walks the writable layers. The kubelet uses the numbers every 10 s, but
		// only when the disk is nearly full: a minute is soon enough, and saves the flash
		// card the reads.
		"stats_collect_period": 60,
	}
}

// runtime configures how the CRI runs containers.
func (c Config) runtime() section {
	return section{
		"enable_selinux":   c.Host.SELinux,
		"disable_apparmor": !c.Host.AppArmor,
		// Lowering an OOM score needs this capability, which nested hosts lack.
		"restrict_oom_score_adj":       !c.Host.Capabilities.Has(host.CapSysResource),
		"netns_mounts_under_state_dir": true,
		"enable_unprivileged_ports":    true,
		"enable_unprivileged_icmp":     true,
		// A container may use the devices that it is given as the user that it runs as.
		"device_ownership_from_security_context": true,
		// The samples are for the CPU rate in CRI stats, which the kubelet computes from
		// cgroups itself. containerd's default of a second would ask every shim each
		// second.
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

// runc configures the runtime, which is always the embedded one.
func (c Config) runc() section {
	return section{
		"runtime_type": "io.containerd.runc.v2",
		"runtime_path": filepath.Join(c.BinDir, "containerd-shim-runc-v2"),
		"options": section{
			"BinaryName":    filepath.Join(c.BinDir, "runc"),
			"Root":          c.Layout.RuncState(),
			"SystemdCgroup": c.SystemdCgroups,
		},
	}
}

// streaming configures the server of exec, attach and port-forward, which only this
// machine's kubelet talks to.
func (c Config) streaming() section {
	return section{
		"disable_tcp_service":   true,
		"stream_server_address": "127.0.0.1",
		"stream_server_port":    "0",
	}
}

// transfer configures the service that `ctr images import` uses, so that the CRI finds
// the images.
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
