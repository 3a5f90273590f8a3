// Package rtnl holds what the parts of the pod network share about rtnetlink(7), the
// kernel's interface for links and routes: how brink's routes are marked, and how to ask
// for links.
package rtnl

import (
	"errors"
	"os"

	"github.com/vishvananda/netlink"
)

// RouteProtocol marks brink's routes in the kernel. iproute2's rt_protos, the list of
// these numbers, assigns it to nobody.
const RouteProtocol = 98

// ServiceMetric marks the routes to Services among those of RouteProtocol, and puts
// them behind everyone else's to the same range.
const ServiceMetric = 1 << 30

// Complete asks again when something came or went during the answer.
func Complete[T any](ask func() ([]T, error)) (list []T, err error) {
	for range 10 {
		if list, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}

// Links lists all links of the network namespace of the calling thread.
func Links() ([]netlink.Link, error) { return Complete(netlink.LinkList) }

// IsGone reports whether err says that a link does not exist.
func IsGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, os.ErrNotExist)
}
