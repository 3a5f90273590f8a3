package agent

import (
	"context"

	"brink/agent/ledger"
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

// putHosts makes a file of hosts where the machine has none.
func (a *Agent) putHosts() error {
	_, err := ledger.PutFile(a.cfg.Layout, hostsFile, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
	return err
}
