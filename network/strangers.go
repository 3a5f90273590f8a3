package network

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Strangers names the links of somebody else that take packets of pods or Services, or
// the place of the VXLAN device, one line each: most often what another distribution
// has left. Nothing is done about them, for they may be in use. Of a node that has no
// range of pods yet, ClusterCIDRs count.
func Strangers(cfg Config) ([]string, error) {
	stack, err := openNetstack()
	if err != nil {
		return nil, err
	}
	defer stack.close()
	return stack.strangers(cfg.withDefaults())
}

func (s *netstack) strangers(cfg Config) ([]string, error) {
	inRange, err := s.linksInRanges(cfg)
	if err != nil {
		return nil, fmt.Errorf("looking for addresses in the pods' range: %w", err)
	}
	tunnels, err := s.otherTunnels(cfg)
	if err != nil {
		return nil, fmt.Errorf("looking for other VXLAN devices: %w", err)
	}
	return append(inRange, tunnels...), nil
}

// linksInRanges are the links, but for ours, whose subnet meets a range of ours.
func (s *netstack) linksInRanges(cfg Config) ([]string, error) {
	var found []addrMsg
	err := s.dump(unix.RTM_GETADDR, sized(unix.SizeofIfAddrmsg, unix.AF_UNSPEC, 0), nil, func() { found = nil }, func(b []byte) {
		if a, ok := parseAddr(b); ok && cfg.rangeOf(a.addr) != "" {
			found = append(found, a)
		}
	})
	var lines []string
	for _, a := range found {
		l, linkErr := s.handle.LinkByIndex(a.link)
		if isGone(linkErr) {
			continue
		}
		if linkErr != nil {
			return nil, linkErr
		}
		if name := l.Attrs().Name; name != cfg.Bridge && name != cfg.VXLANDevice {
			lines = append(lines, fmt.Sprintf("link %s%s has the address %s, which meets %s, so packets may go there: if nothing uses it, ip link delete %s", name, knownMaker(name), a.addr, cfg.rangeOf(a.addr), name))
		}
	}
	return lines, err
}

// rangeOf tells which range of ours a link's subnet meets, "" for none. With the backend
// none somebody else leads to other nodes' pods and has addresses of all of them, but
// not the one by which pods of this node reach it.
func (c Config) rangeOf(addr netip.Prefix) string {
	if c.Backend == None && len(c.NodeCIDRs) > 0 {
		if slices.ContainsFunc(c.gateways(), addr.Contains) {
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

// otherTunnels are the devices beside which the kernel makes none of ours: of the same
// port and identifier, or that take all identifiers of the port.
func (s *netstack) otherTunnels(cfg Config) ([]string, error) {
	if cfg.Backend == None {
		return nil, nil
	}
	links, err := complete(s.handle.LinkList)
	var lines []string
	for _, l := range links {
		v, ok := l.(*netlink.Vxlan)
		if !ok || v.Name == cfg.VXLANDevice || v.Port != cfg.VXLANPort || v.VxlanId != cfg.VNI && !v.FlowBased {
			continue
		}
		what := fmt.Sprintf("the VXLAN identifier %d", v.VxlanId)
		if v.FlowBased {
			what = "all VXLAN identifiers"
		}
		lines = append(lines, fmt.Sprintf("link %s%s has %s on UDP port %d, where the way to other nodes' pods is: if nothing uses it, ip link delete %s", v.Name, knownMaker(v.Name), what, v.Port, v.Name))
	}
	return lines, err
}

// makers say whose a link usually is by how its name begins.
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

// strangers are warnings of the keeper, which looks when addresses change.
func (k *peerKeeper) strangers() []string {
	lines, err := k.kernel.strangers(k.cfg)
	if err != nil {
		slog.Debug("looking for links of others", "component", componentName, "error", err)
	}
	return lines
}
