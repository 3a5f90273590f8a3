package proxy

import (
	"context"
	"errors"

	"brink/network/nftables"
)

// Remove removes the tables that kube-proxy in nftables mode made for itself. It touches
// no others.
func Remove(ctx context.Context) error {
	return errors.Join(nftables.RemoveTable(ctx, "ip", tableName), nftables.RemoveTable(ctx, "ip6", tableName))
}
