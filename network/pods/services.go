package pods

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brink/network/iprange"
	"brink/network/rtnl"
)

// reconcileServiceRoutes routes what this host sends to Services over the pods' bridge.
// Where a packet goes is decided after the route was chosen, when the address of a
// Service becomes that of a pod. But without any route nothing is sent: on a host without
// a default route, as one whose cable is out may be, only pods would reach Services.
//
// The route is always there, even where another one leads to Services, because it makes
// the kernel take the bridge's address as source, which every pod and node can answer.
// By a default route the source is that of some link to the outside, and which of the two
// a connection has would depend on the history of the links. No packet goes elsewhere
// than before: kube-proxy refuses addresses of the range that no Service has.
// A route of somebody else to the same range or to a part of it wins.
func (p *Pods) reconcileServiceRoutes() error {
	if !p.oldRoutesRemoved {
		if err := p.removeOldServiceRoutes(); err != nil {
			return fmt.Errorf("removing old routes to Services: %w", err)
		}
		p.oldRoutesRemoved = true
	}
	for _, services := range p.cfg.ServiceCIDRs {
		if _, ok := iprange.SameFamily(Gateways(p.cfg.NodeCIDRs), services.Addr()); !ok {
			continue // the bridge has no address of this family
		}
		if err := p.reconcileServiceRoute(services); err != nil {
			return fmt.Errorf("adding the route to Services %s: %w", services, err)
		}
	}
	return nil
}

func (p *Pods) reconcileServiceRoute(services netip.Prefix) error {
	link, noRoute := linkTo(services.Addr().Next())
	bridge, err := netlink.LinkByName(p.cfg.Bridge)
	if rtnl.IsGone(err) {
		if noRoute == nil {
			return nil // the CNI plugin makes the bridge with the first pod
		}
		bridge, err = p.makeFirstBridge()
	}
	if err != nil {
		return err
	}
	if noRoute == nil && link == bridge.Attrs().Index {
		return nil
	}
	err = netlink.RouteAdd(serviceRoute(services, bridge.Attrs().Index))
	if errors.Is(err, unix.EEXIST) { // somebody's own is there and wins
		return nil
	}
	if err == nil {
		p.log.Debug("Services are reached over the pods' bridge", "bridge", p.cfg.Bridge, "range", services)
	}
	return err
}

// linkTo returns the index of the link by which the kernel would send a packet.
func linkTo(to netip.Addr) (int, error) {
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil {
		return 0, err
	}
	if len(routes) == 0 {
		return 0, unix.ENETUNREACH
	}
	return routes[0].LinkIndex, nil
}

func serviceRoute(services netip.Prefix, link int) *netlink.Route {
	route := &netlink.Route{
		Dst:       &net.IPNet{IP: services.Addr().AsSlice(), Mask: net.CIDRMask(services.Bits(), services.Addr().BitLen())},
		Priority:  rtnl.ServiceMetric,
		LinkIndex: link,
		Protocol:  rtnl.RouteProtocol,
	}
	if services.Addr().Is4() {
		route.Scope = unix.RT_SCOPE_LINK
	}
	return route
}

// makeFirstBridge makes the bridge before there is a pod.
func (p *Pods) makeFirstBridge() (netlink.Link, error) {
	p.log.Info("no route leads to Services: making the pods' bridge before the first pod", "bridge", p.cfg.Bridge)
	bridge, err := p.makeBridge()
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", p.cfg.Bridge, err)
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return nil, fmt.Errorf("setting bridge %s up: %w", p.cfg.Bridge, err)
	}
	if err := p.ensureAddresses(bridge, slog.LevelDebug); err != nil {
		return nil, fmt.Errorf("adding the addresses of bridge %s: %w", p.cfg.Bridge, err)
	}
	return bridge, nil
}

// removeOldServiceRoutes removes routes to ranges that are not the Services' any more, as
// those of another cluster that this host was a node of.
func (p *Pods) removeOldServiceRoutes() error {
	routes, err := rtnl.Complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: rtnl.RouteProtocol, Priority: rtnl.ServiceMetric}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_PRIORITY)
	})
	for _, r := range routes {
		services, parseErr := netip.ParsePrefix(r.Dst.String())
		if parseErr != nil || slices.Contains(p.cfg.ServiceCIDRs, services) {
			continue
		}
		if delErr := netlink.RouteDel(serviceRoute(services, r.LinkIndex)); !errors.Is(delErr, unix.ESRCH) {
			err = errors.Join(err, delErr)
		}
	}
	return err
}
