package network

import (
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brink/network/overlay"
	"brink/network/rtnl"
	"brink/network/sysctl"
)

// applySettings makes the kernel route pods' packets, and show those that stay on the
// bridge to nftables. Otherwise the answer of a pod behind a Service to a pod on the same
// bridge never meets the IP layer, keeps its own source address, and is refused by the pod
// that asked.
func applySettings(cfg Config, log *slog.Logger) error {
	change := func(key, want string) error { return cfg.change(log, key, want) }
	for _, f := range families {
		if !cfg.has(f) {
			continue
		}
		if err := requireKernel(f, log); err != nil {
			return err
		}
		if f.v6 {
			if err := acceptRouterAdvertisements(change, cfg.bridgeName(), overlay.DefaultDevice); err != nil {
				return err
			}
		}
		for _, key := range []string{f.forward, f.bridgeNF} {
			if err := change(key, "1"); err != nil {
				return err
			}
		}
	}
	return nil
}

// requireKernel returns an error that says what the kernel lacks. It tries to load the
// module that nothing else loads.
func requireKernel(f family, log *slog.Logger) error {
	if !sysctl.Exists(f.forward) {
		return fmt.Errorf("the cluster has addresses of family %s but the kernel has it switched off: %s is missing (see ipv6.disable on the kernel command line)",
			f.match, sysctl.Path(f.forward))
	}
	if sysctl.Exists(f.bridgeNF) {
		return nil
	}
	out, err := exec.Command("modprobe", "br_netfilter").CombinedOutput()
	if sysctl.Exists(f.bridgeNF) {
		log.Info("kernel module loaded", "module", "br_netfilter")
		return nil
	}
	return fmt.Errorf("the kernel module br_netfilter is missing and could not be loaded (%v: %s): install the kernel's module package or use a kernel built with CONFIG_BRIDGE_NETFILTER",
		err, strings.TrimSpace(string(out)))
}

// change writes a setting that is the machine's, not one of brink's own links. The
// receiver of Changing hears of it first.
func (cfg Config) change(log *slog.Logger, key, want string) error {
	if has, err := sysctl.Get(key); err == nil && has != want && cfg.Changing != nil {
		if err := cfg.Changing(key, want); err != nil {
			return err
		}
	}
	return sysctl.Set(log, key, want)
}

// acceptRouterAdvertisements keeps a node's IPv6 default route alive. A kernel that
// forwards is a router, and ignores the advertisements that its own route comes from
// unless accept_ra is 2. Links that have such a route are changed, and those that may
// still learn one: a modem that is plugged in later, a network whose router was off when
// the node started. Left out are those on which a pod could advertise itself as the
// node's router: brink's own, and the ends of pods' links.
func acceptRouterAdvertisements(change func(key, want string) error, ours ...string) error {
	learnt, err := linksWithLearntRoutes()
	if err != nil {
		return err
	}
	links, err := rtnl.Links()
	if err != nil {
		return fmt.Errorf("listing links: %w", err)
	}
	for _, link := range links {
		name, isLearnt := link.Attrs().Name, learnt[link.Attrs().Index]
		if slices.Contains(ours, name) || !isLearnt && !mayMeetRouters(link) {
			continue
		}
		key := filepath.Join("net/ipv6/conf", name, "accept_ra")
		if has, err := sysctl.Get(key); err != nil || has != "1" {
			continue // 0: a daemon such as systemd-networkd handles them itself
		}
		// A setting that may never be needed keeps no node from starting.
		if err := change(key, "2"); err != nil && isLearnt {
			return err
		}
	}
	return nil
}

// linksWithLearntRoutes returns the indices of links with a route from an advertisement.
func linksWithLearntRoutes() (map[int]bool, error) {
	routes, err := rtnl.Complete(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, fmt.Errorf("listing IPv6 routes: %w", err)
	}
	out := map[int]bool{}
	for _, r := range routes {
		out[r.LinkIndex] = true
	}
	return out, nil
}

// mayMeetRouters excludes links to pods and containers, anyone's.
func mayMeetRouters(link netlink.Link) bool {
	return link.Attrs().Flags&net.FlagLoopback == 0 && link.Type() != "veth" && link.Type() != "bridge"
}
