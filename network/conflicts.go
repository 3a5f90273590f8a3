package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"brink/network/overlay"
	"brink/network/pods"
	"brink/network/rtnl"
)

// Conflicts names the links of somebody else that take packets of pods or Services, or
// stand in the place of the VXLAN device, one line each. Most often another distribution
// has left them. Nothing is done about them, for they may be in use. A node without a
// range of pods yet is checked by ClusterCIDRs.
func Conflicts(cfg Config) ([]string, error) {
	links, err := rtnl.Links()
	if err != nil {
		return nil, fmt.Errorf("looking for other VXLAN devices: %w", err)
	}
	inRange, err := linksInRanges(cfg, links)
	if err != nil {
		return nil, fmt.Errorf("looking for addresses in the pods' range: %w", err)
	}
	return append(inRange, otherTunnels(cfg, links)...), nil
}

// linksInRanges names the links, but for brink's, whose subnet meets a range of the
// cluster.
func linksInRanges(cfg Config, links []netlink.Link) ([]string, error) {
	addrs, err := rtnl.Complete(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var lines []string
	for _, a := range addrs {
		subnet, name := subnetOf(a), names[a.LinkIndex]
		met := cfg.rangeOf(subnet)
		if met == "" || name == "" || name == cfg.bridgeName() || name == overlay.DefaultDevice {
			continue
		}
		lines = append(lines, fmt.Sprintf("link %s%s has the address %s, which meets %s, so packets may go there: if nothing uses it, ip link delete %s", name, knownMaker(name), subnet, met, name))
	}
	return lines, nil
}

// subnetOf returns a link's own address with the prefix length of its subnet. On a
// point-to-point link that length comes with the address of the other end.
func subnetOf(a netlink.Addr) netip.Prefix {
	ip, _ := netip.AddrFromSlice(a.IP)
	if ip.Is4In6() {
		ip = ip.Unmap()
	}
	bits, _ := a.Mask.Size()
	if a.Peer != nil {
		bits, _ = a.Peer.Mask.Size()
	}
	return netip.PrefixFrom(ip, bits)
}

// rangeOf names the cluster's range that a link's subnet overlaps, "" for none. With the
// backend none, another program routes to other nodes' pods, and its links may have
// addresses in any range: only a subnet with a gateway of this node's pods counts.
func (c Config) rangeOf(addr netip.Prefix) string {
	if c.backend() == None && len(c.NodeCIDRs) > 0 {
		if slices.ContainsFunc(pods.Gateways(c.NodeCIDRs), addr.Contains) {
			return "the range of this node's pods"
		}
		return ""
	}
	for _, p := range c.ClusterCIDRs {
		if p.Overlaps(addr.Masked()) {
			return "the pods' range " + p.String()
		}
	}
	for _, p := range c.ServiceCIDRs {
		if p.Overlaps(addr.Masked()) {
			return "the Services' range " + p.String()
		}
	}
	return ""
}

// otherTunnels names the VXLAN devices because of which the kernel refuses to make
// brink's: those with the same port and identifier, and those that take every identifier
// of the port.
func otherTunnels(cfg Config, links []netlink.Link) []string {
	if cfg.backend() == None {
		return nil
	}
	var lines []string
	for _, l := range links {
		v, ok := l.(*netlink.Vxlan)
		if !ok || v.Name == overlay.DefaultDevice || v.Port != DefaultVXLANPort || v.VxlanId != overlay.DefaultVNI && !v.FlowBased {
			continue
		}
		what := fmt.Sprintf("the VXLAN identifier %d", v.VxlanId)
		if v.FlowBased {
			what = "all VXLAN identifiers"
		}
		lines = append(lines, fmt.Sprintf("link %s%s has %s on UDP port %d, which leads to other nodes' pods here: if nothing uses it, ip link delete %s", v.Name, knownMaker(v.Name), what, v.Port, v.Name))
	}
	return lines
}

// makers tells who makes links whose names begin like this.
var makers = []struct{ name, maker string }{
	{"cni0", "another Kubernetes distribution"}, {"cbr0", "another Kubernetes distribution"}, {"kube-", "another Kubernetes distribution"},
	{"flannel", "flannel"}, {"cilium", "Cilium"}, {"vxlan.calico", "Calico"}, {"cali", "Calico"}, {"tunl0", "Calico"}, {"weave", "Weave Net"},
	{"docker", "Docker"}, {"br-", "Docker"}, {"podman", "Podman"}, {"virbr", "libvirt"}, {"lxc", "LXC"}, {"lxd", "LXD"},
	{"wg", "WireGuard"}, {"tailscale", "Tailscale"}, {"zt", "ZeroTier"}, {"nebula", "Nebula"}, {"tun", "a VPN"},
}

func knownMaker(name string) string {
	for _, m := range makers {
		if strings.HasPrefix(name, m.name) {
			return " (" + m.maker + ")"
		}
	}
	return ""
}

// conflicts returns what Conflicts finds, as warnings. They may change when addresses do.
func (r *reconciler) conflicts() []string {
	lines, err := Conflicts(r.cfg)
	if err != nil {
		r.log.Debug("looking for links of others", "error", err)
	}
	return lines
}
