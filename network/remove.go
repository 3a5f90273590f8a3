package network

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"sigs.k8s.io/knftables"

	"brink/network/nftables"
	"brink/network/overlay"
	"brink/network/pods"
)

// Remove removes what New's component and the CNI plugins made on this host: the routes to
// peers and the VXLAN device, the bridge and the pod links that are still attached to it,
// brink's nftables table, its pods' host ports, the CNI configuration and leases. What is
// gone already is no error. Kernel settings are left to the receiver of Config.Changing.
// It is meant for uninstalling, after the pods are gone.
//
// Only CNIConfDir and CNIStateDir of cfg are used.
func Remove(cfg Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(
		overlay.Remove(overlay.DefaultDevice, slog.With("component", componentName)),
		pods.Remove(ctx, cfg.pods()),
		nftables.RemoveTable(ctx, knftables.InetFamily, tableName),
	)
}
