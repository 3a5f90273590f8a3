package agent

import (
	"context"

	"brink/agent/ledger"
	"brink/agent/networkmanager"
	"brink/internal/lifecycle"
	"brink/runtime/payload"
)

// needsOwnNFT reports whether the service proxy and the network have to use brink's own
// nft, because the host's cannot serve them.
func (a *Agent) needsOwnNFT(ctx context.Context) bool {
	fault := a.cfg.Host.NFTFault()
	if fault == "" || payload.NFTVersion() == "" { // then the checks have found the host's to serve
		return false
	}
	lifecycle.Logger(ctx).Info("using brink's own nft", "version", payload.NFTVersion(), "reason", fault)
	return true
}

// hostsFile is what containerd copies into each pod, and the kubelet reads for pods in the
// host's network. Without it no pod starts.
const hostsFile = "/etc/hosts"

// putFiles makes a file of hosts where the machine has none, and one by which NetworkManager
// leaves pods alone where it runs. A full disk must not keep the node from coming back.
func (a *Agent) putFiles(ctx context.Context) {
	_, err := ledger.PutFile(a.cfg.Layout, hostsFile, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	if err != nil {
		lifecycle.Logger(ctx).Warn("pods will not start without "+hostsFile, "error", err)
	}
	if err := networkmanager.Tell(a.cfg.Layout); err != nil {
		lifecycle.Logger(ctx).Warn("NetworkManager may take the links of pods", "error", err)
	}
}
