package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// settle is how long the loop waits after an event: a pod that comes causes a
// dozen of them, and the CNI plugin shall be done with its own changes.
const settle = 100 * time.Millisecond

// watchLinks sends on the channel when a link or an address of this network
// namespace changed, until ctx ends. It says that there was something, not what.
// Without events the loop looks at its own pace.
func watchLinks(ctx context.Context) (<-chan struct{}, error) {
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("subscribing to changes of links: %w", err)
	}
	context.AfterFunc(ctx, socket.Close)
	changed := make(chan struct{}, 1)
	go func() {
		for {
			_, _, err := socket.Receive()
			if ctx.Err() != nil {
				return
			}
			// When more came than fits, something came.
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
				slog.Warn("changes of links are noticed later from now on", "component", componentName, "error", err)
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, nil
}
