package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// serviceMetric marks our routes to Services among those of routeProtocol, and puts
// them behind everyone else's to the same range.
const serviceMetric = 1 << 30

// keepServiceRoutes leads what this host sends to Services over the pods' bridge. Where
// it goes is decided after the route was chosen, when the address of a Service becomes
// that of a pod, but without any route nothing is sent: on a host without a default
// route, as one whose cable is out may be, Services were reached by pods alone.
//
// The route is there always, not only where no other leads to Services: by it the
// kernel takes the bridge's address as source, which every pod and node can answer.
// With a default route it is that of some link to the outside, and connections would
// have one source or the other by the history of the links. Nobody's packets go another
// way than before: of the whole range, addresses of no Service are refused by
// kube-proxy. A route of somebody else to the same range or to a part of it wins.
func (n *node) keepServiceRoutes() error {
	if !n.routesLooked {
		if err := n.leaveOldServices(); err != nil {
			return fmt.Errorf("leaving old routes to Services: %w", err)
		}
		n.routesLooked = true
	}
	for _, services := range n.cfg.ServiceCIDRs {
		if _, ok := sameFamily(n.cfg.gateways(), services.Addr()); !ok {
			continue // the bridge has no address of this family
		}
		if err := n.keepServiceRoute(services); err != nil {
			return fmt.Errorf("keeping the route to Services %s: %w", services, err)
		}
	}
	return nil
}

func (n *node) keepServiceRoute(services netip.Prefix) error {
	at, noWay := n.stack.lookup(services.Addr().Next())
	if noWay == nil && at.link.name == n.cfg.Bridge {
		return nil
	}
	bridge, err := netlink.LinkByName(n.cfg.Bridge)
	if isGone(err) {
		if noWay == nil {
			return nil // the CNI plugin makes the bridge with the first pod
		}
		bridge, err = n.makeFirstBridge()
	}
	if err != nil {
		return err
	}
	err = netlink.RouteAdd(serviceRoute(services, bridge.Attrs().Index))
	if errors.Is(err, unix.EEXIST) { // somebody's own is in front of it
		return nil
	}
	if err == nil {
		slog.Debug("Services are reached over the pods' bridge", "component", componentName, "bridge", n.cfg.Bridge, "range", services)
	}
	return err
}

func serviceRoute(services netip.Prefix, link int) *netlink.Route {
	route := netlinkRoute(routeKey{services, serviceMetric}, hop{link: link})
	if services.Addr().Is4() {
		route.Scope = unix.RT_SCOPE_LINK
	}
	return route
}

// makeFirstBridge makes the bridge before there is a pod.
func (n *node) makeFirstBridge() (netlink.Link, error) {
	slog.Info("no route leads to Services: making the pods' bridge before the first pod", "component", componentName, "bridge", n.cfg.Bridge)
	bridge, err := n.makeBridge()
	if err == nil {
		err = netlink.LinkSetUp(bridge)
	}
	if err != nil {
		return nil, err
	}
	return bridge, ensureAddresses(bridge, n.cfg.NodeCIDRs, slog.LevelDebug)
}

// leaveOldServices removes routes to ranges that are not the Services' any more, as of
// another cluster that this host was a node of.
func (n *node) leaveOldServices() error {
	var old []routeMsg
	err := n.stack.dump(unix.RTM_GETROUTE, sized(unix.SizeofRtMsg, unix.AF_UNSPEC, 0), nil, func() { old = nil }, func(b []byte) {
		if r, ok := parseRoute(b); ok && r.isService() && !slices.Contains(n.cfg.ServiceCIDRs, r.key.dst) {
			old = append(old, r)
		}
	})
	for _, r := range old {
		if delErr := netlink.RouteDel(serviceRoute(r.key.dst, r.hop.link)); !errors.Is(delErr, unix.ESRCH) {
			err = errors.Join(err, delErr)
		}
	}
	return err
}

// isService tells our routes to Services from those to peers.
func (r routeMsg) isService() bool {
	return r.main && r.protocol == routeProtocol && r.key.metric == serviceMetric
}

// gateways are the bridge's addresses.
func (c Config) gateways() []netip.Addr {
	var out []netip.Addr
	for _, p := range c.NodeCIDRs {
		out = append(out, p.Addr().Next())
	}
	return out
}
