package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// keepBridge repairs what the CNI bridge plugin made, once a pod has an address:
// the plugin itself looks only when the next pod comes, and until then every pod
// on the node is cut off.
func (n *node) keepBridge() error {
	if err := n.leaveOldRanges(); err != nil {
		return fmt.Errorf("leaving old ranges of bridge %s: %w", n.cfg.Bridge, err)
	}
	if !hasLeases(n.cfg.leases()) {
		return nil
	}
	bridge, err := n.ensureBridge()
	if err != nil {
		return fmt.Errorf("keeping bridge %s: %w", n.cfg.Bridge, err)
	}
	// The plugin that makes the bridge for the first pod gives it the addresses a
	// moment after the pod's.
	level := slog.LevelDebug
	if n.hasAddresses {
		level = slog.LevelWarn
	}
	if err := ensureAddresses(bridge, n.cfg.NodeCIDRs, level); err != nil {
		return fmt.Errorf("keeping the addresses of bridge %s: %w", n.cfg.Bridge, err)
	}
	n.hasAddresses = true
	if err := n.attachPods(bridge); err != nil {
		return fmt.Errorf("attaching pods to bridge %s: %w", n.cfg.Bridge, err)
	}
	return nil
}

func (n *node) ensureBridge() (netlink.Link, error) {
	bridge, err := netlink.LinkByName(n.cfg.Bridge)
	if isGone(err) {
		slog.Warn("the pods' bridge is gone, making it again", "component", componentName, "bridge", n.cfg.Bridge)
		bridge, err = n.makeBridge()
	}
	if err != nil {
		return nil, err
	}
	if bridge.Type() != "bridge" {
		return nil, fmt.Errorf("there is a %s of this name: remove or rename it", bridge.Type())
	}
	n.bridgeMAC = bridge.Attrs().HardwareAddr
	if bridge.Attrs().Flags&net.FlagUp == 0 {
		slog.Warn("the pods' bridge was down, setting it up", "component", componentName, "bridge", n.cfg.Bridge)
		err = netlink.LinkSetUp(bridge)
	}
	return bridge, err
}

// makeBridge makes the bridge as the plugin does, and with the MAC address it
// had before, which pods have in their neighbour tables for their gateway. An
// address that is set explicitly does not change with the ports.
func (n *node) makeBridge() (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.cfg.Bridge, n.cfg.MTU
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	bridge, err := netlink.LinkByName(n.cfg.Bridge)
	if err != nil {
		return nil, err
	}
	mac := n.bridgeMAC
	if mac == nil {
		mac = bridge.Attrs().HardwareAddr
	}
	if err := netlink.LinkSetHardwareAddr(bridge, mac); err != nil {
		return nil, err
	}
	// No pod is a router for the node. Without IPv6 there is no such setting.
	if key := filepath.Join("net/ipv6/conf", n.cfg.Bridge, "accept_ra"); exists(key) {
		if err := set(key, "0"); err != nil {
			return nil, err
		}
	}
	return netlink.LinkByName(n.cfg.Bridge)
}

// leaveOldRanges takes addresses from the bridge that are of the cluster's ranges and
// of none of this node's: the node was deleted and has joined again, and who has its
// old range now could not be reached, for the bridge's route comes first.
func (n *node) leaveOldRanges() error {
	bridge, err := netlink.LinkByName(n.cfg.Bridge)
	if isGone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	has, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, a := range has {
		p, err := netip.ParsePrefix(a.IPNet.String())
		if err != nil || !Within(p.Masked(), n.cfg.ClusterCIDRs) || Within(p.Masked(), n.cfg.NodeCIDRs) {
			continue
		}
		slog.Warn("the pods' bridge has an address of a range that is not this node's any more, removing it", "component", componentName, "bridge", n.cfg.Bridge, "address", p)
		if err := netlink.AddrDel(bridge, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return err
		}
	}
	return nil
}

// ensureAddresses gives the bridge the first address of each prefix, which is
// the pods' gateway. Others stay: they are the plugin's to remove.
func ensureAddresses(bridge netlink.Link, prefixes []netip.Prefix, level slog.Level) error {
	has, err := complete(func() ([]netlink.Addr, error) { return netlink.AddrList(bridge, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, p := range prefixes {
		want := netip.PrefixFrom(p.Addr().Next(), p.Bits()).String()
		if slices.ContainsFunc(has, func(a netlink.Addr) bool { return a.IPNet.String() == want }) {
			continue
		}
		slog.Log(context.Background(), level, "the pods' bridge has lost an address, adding it", "component", componentName, "bridge", bridge.Attrs().Name, "address", want)
		addr, err := netlink.ParseAddr(want)
		if err != nil {
			return err
		}
		if p.Addr().Is6() {
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
func (n *node) attachPods(bridge netlink.Link) error {
	links, err := allLinks()
	if err != nil {
		return err
	}
	// Who is on the bridge needs no look at files, and nearly always all are.
	loose := slices.DeleteFunc(links, func(l netlink.Link) bool {
		return l.Type() != "veth" || l.Attrs().MasterIndex == bridge.Attrs().Index
	})
	if len(loose) == 0 {
		return nil
	}
	ours, err := podLinks(n.cfg)
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range loose {
		if ours[link.Attrs().Name] {
			slog.Warn("a pod was off the bridge, attaching it", "component", componentName, "bridge", bridge.Attrs().Name, "link", link.Attrs().Name)
			errs = append(errs, attach(link, bridge))
		}
	}
	return errors.Join(errs...)
}

// attach sets what the plugin sets by our configuration. A link that went in
// the meantime went with its pod.
func attach(link, bridge netlink.Link) error {
	err := netlink.LinkSetMaster(link, bridge)
	if err == nil {
		err = netlink.LinkSetHairpin(link, true)
	}
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// cniResult is the part that is used of what the CNI library remembers of a pod
// in the file <CNICacheDir>/results/<network>-<container>-<interface>
// (github.com/containernetworking/cni v1.3.0, libcni/api.go).
type cniResult struct {
	Network      string `json:"networkName"`
	Container    string `json:"containerId"`
	Capabilities struct {
		Ports []portMapping `json:"portMappings"`
	} `json:"capabilityArgs"`
	Result struct {
		Interfaces []cniInterface `json:"interfaces"`
		IPs        []struct {
			Address netip.Prefix `json:"address"`
		} `json:"ips"`
	} `json:"result"`
}

type cniInterface struct {
	Name    string `json:"name"`
	Sandbox string `json:"sandbox"` // empty for the host's side
}

// podLinks are the host's ends of the links of pods that hold an address of ours.
// Neither kernel nor leases say which these are.
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

// leases is the host-local plugin's directory for our network.
func (c Config) leases() string { return filepath.Join(c.CNIStateDir, networkName) }

// hasLeases tells whether a pod holds an address: the plugin has a file of that
// name for each.
func hasLeases(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		_, err := netip.ParseAddr(e.Name())
		return err == nil
	})
}

// complete asks again when something came or went during the answer.
func complete[T any](ask func() ([]T, error)) (list []T, err error) {
	for range 10 {
		if list, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return list, err
}
