package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brink/network/iprange"
	"brink/network/rtnl"
	"brink/network/sysctl"
)

// reconcileBridge repairs what the CNI bridge plugin made, once a pod has an address.
// The plugin itself checks the bridge only when the next pod comes, and until then
// every pod on the node would be cut off.
func (p *Pods) reconcileBridge() error {
	if err := p.removeOldAddresses(); err != nil {
		return fmt.Errorf("removing old addresses of bridge %s: %w", p.cfg.Bridge, err)
	}
	if !hasLeases(p.cfg.leases()) {
		return nil
	}
	bridge, err := p.ensureBridge()
	if err != nil {
		return fmt.Errorf("repairing bridge %s: %w", p.cfg.Bridge, err)
	}
	// The plugin that makes the bridge for the first pod gives it the addresses a
	// moment after the pod's.
	level := slog.LevelDebug
	if p.hadAddresses {
		level = slog.LevelWarn
	}
	if err := p.ensureAddresses(bridge, level); err != nil {
		return fmt.Errorf("repairing the addresses of bridge %s: %w", p.cfg.Bridge, err)
	}
	p.hadAddresses = true
	if err := p.attachPods(bridge); err != nil {
		return fmt.Errorf("attaching pods to bridge %s: %w", p.cfg.Bridge, err)
	}
	return nil
}

func (p *Pods) ensureBridge() (netlink.Link, error) {
	bridge, err := netlink.LinkByName(p.cfg.Bridge)
	if rtnl.IsGone(err) {
		p.log.Warn("the pods' bridge is gone, making it again", "bridge", p.cfg.Bridge)
		bridge, err = p.makeBridge()
	}
	if err != nil {
		return nil, err
	}
	if bridge.Type() != "bridge" {
		return nil, fmt.Errorf("there is a %s of this name: remove or rename it", bridge.Type())
	}
	p.bridgeMAC = bridge.Attrs().HardwareAddr
	if bridge.Attrs().Flags&net.FlagUp == 0 {
		p.log.Warn("the pods' bridge was down, setting it up", "bridge", p.cfg.Bridge)
		if err := netlink.LinkSetUp(bridge); err != nil {
			return nil, fmt.Errorf("setting it up: %w", err)
		}
	}
	return bridge, nil
}

// makeBridge makes the bridge as the plugin does, but with the MAC address that it had
// before: pods have that in their neighbour tables for their gateway. An address that
// is set explicitly does not change with the ports.
func (p *Pods) makeBridge() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = p.cfg.Bridge, p.mtu
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("making it: %w", err)
	}
	bridge, err := netlink.LinkByName(p.cfg.Bridge)
	if err != nil {
		return nil, fmt.Errorf("finding it: %w", err)
	}
	mac := p.bridgeMAC
	if mac == nil {
		mac = bridge.Attrs().HardwareAddr
	}
	if err := netlink.LinkSetHardwareAddr(bridge, mac); err != nil {
		return nil, fmt.Errorf("setting its MAC address: %w", err)
	}
	// No pod is a router for the node. Without IPv6 there is no such setting.
	if key := filepath.Join("net/ipv6/conf", p.cfg.Bridge, "accept_ra"); sysctl.Exists(key) {
		if err := sysctl.Set(p.log, key, "0"); err != nil {
			return nil, err
		}
	}
	return netlink.LinkByName(p.cfg.Bridge)
}

// removeOldAddresses removes addresses of the bridge that are in the cluster's ranges but
// not in this node's. The node was deleted and has joined again; the node that has its
// old range now could not be reached, because the bridge's route comes first.
func (p *Pods) removeOldAddresses() error {
	bridge, err := netlink.LinkByName(p.cfg.Bridge)
	if rtnl.IsGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	has, err := rtnl.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, a := range has {
		prefix, err := netip.ParsePrefix(a.IPNet.String())
		if err != nil || !iprange.Within(prefix.Masked(), p.cfg.ClusterCIDRs) || iprange.Within(prefix.Masked(), p.cfg.NodeCIDRs) {
			continue
		}
		p.log.Warn("the pods' bridge has an address of a range that is not this node's any more, removing it", "bridge", p.cfg.Bridge, "address", prefix)
		if err := netlink.AddrDel(bridge, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	return nil
}

// ensureAddresses gives the bridge the first address of each prefix, which is the pods'
// gateway. Other addresses stay: they are the plugin's to remove.
func (p *Pods) ensureAddresses(bridge netlink.Link, level slog.Level) error {
	has, err := rtnl.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, prefix := range p.cfg.NodeCIDRs {
		want := netip.PrefixFrom(prefix.Addr().Next(), prefix.Bits()).String()
		if slices.ContainsFunc(has, func(a netlink.Addr) bool { return a.IPNet.String() == want }) {
			continue
		}
		p.log.Log(context.Background(), level, "the pods' bridge has lost an address, adding it", "bridge", bridge.Attrs().Name, "address", want)
		addr, err := netlink.ParseAddr(want)
		if err != nil {
			return err
		}
		if prefix.Addr().Is6() {
			// Detecting duplicates would keep the gateway silent for a second.
			addr.Flags |= unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(bridge, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// attachPods puts the host's ends of pods' links back on the bridge.
func (p *Pods) attachPods(bridge netlink.Link) error {
	links, err := rtnl.Links()
	if err != nil {
		return err
	}
	// Nearly always all are on the bridge, and no file has to be read.
	detached := slices.DeleteFunc(links, func(l netlink.Link) bool {
		return l.Type() != "veth" || l.Attrs().MasterIndex == bridge.Attrs().Index
	})
	if len(detached) == 0 {
		return nil
	}
	ours, err := podLinks(p.cfg)
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range detached {
		if ours[link.Attrs().Name] {
			p.log.Warn("a pod was off the bridge, attaching it", "bridge", bridge.Attrs().Name, "link", link.Attrs().Name)
			if err := attach(link, bridge); err != nil {
				errs = append(errs, fmt.Errorf("link %s: %w", link.Attrs().Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// hairpinMode lets a pod reach itself through its own Service: the bridge sends a frame
// back on the port that it came from.
const hairpinMode = true

// attach sets what the plugin sets by brink's configuration (wantedConflist). A link that is gone in the meantime went with its pod.
func attach(link, bridge netlink.Link) error {
	err := netlink.LinkSetMaster(link, bridge)
	if err == nil {
		err = netlink.LinkSetHairpin(link, hairpinMode)
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// podLinks returns the host's ends of the links of pods that have a lease. Only the CNI
// library's records say which these are, neither the kernel nor the leases do.
func podLinks(cfg Config) (map[string]bool, error) {
	out := map[string]bool{}
	err := eachPod(cfg, func(r cniResult) {
		for _, i := range r.Result.Interfaces {
			if i.Sandbox == "" && i.Name != cfg.Bridge {
				out[i.Name] = true
			}
		}
	})
	return out, err
}
