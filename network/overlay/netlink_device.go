package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"brink/network/rtnl"
	"brink/network/sysctl"
)

// inspectDevice returns nil when there is no device of this name.
func (s *netstack) inspectDevice(name string) (*device, error) {
	l, err := s.handle.LinkByName(name)
	if rtnl.IsGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v, ok := l.(*netlink.Vxlan)
	if !ok {
		return nil, fmt.Errorf("there is a %s of this name: remove or rename it", l.Type())
	}
	local, _ := netip.AddrFromSlice(v.SrcAddr)
	d := &device{
		name: name, index: v.Index, vni: v.VxlanId, port: v.Port, local: local.Unmap(), parent: v.VtepDevIndex,
		learning: v.Learning, floods: v.Group != nil && !v.Group.IsUnspecified(), mtu: v.MTU, up: v.RawFlags&unix.IFF_UP != 0,
		strictRPFilter: isStrict(name), acceptsRA: isSetTo("net/ipv6/conf/"+name+"/accept_ra", "1", "2"),
	}
	if len(v.HardwareAddr) == len(d.mac) {
		d.mac = mac(v.HardwareAddr)
	}
	if d.txChecksum, err = hasChecksumOffload(name); errors.Is(err, unix.ENODEV) {
		return nil, nil // it went in the meantime
	} else if err != nil {
		return nil, err
	}
	d.addrs, err = s.addrsOf(v.Index)
	return d, err
}

// addrsOf lists a link's addresses, but for those that the kernel makes itself.
func (s *netstack) addrsOf(index int) (string, error) {
	var out []netip.Prefix
	err := s.dump(unix.RTM_GETADDR, sized(unix.SizeofIfAddrmsg, unix.AF_UNSPEC, 0), nil, func() { out = nil }, func(b []byte) {
		if a, ok := parseAddr(b); ok && a.link == index && !a.addr.Addr().IsLinkLocalUnicast() {
			out = append(out, a.addr)
		}
	})
	return joined(out), err
}

// joined writes prefixes in their order.
func joined(prefixes []netip.Prefix) string {
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	var texts []string
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, " ")
}

// isStrict reports whether packets that come in by a link are dropped when the
// kernel would not answer through it. The stricter of two settings counts, where
// loose (2) is above strict (1): ip-sysctl.rst, rp_filter.
func isStrict(name string) bool {
	all, err := sysctl.Get("net/ipv4/conf/all/rp_filter")
	own, err2 := sysctl.Get("net/ipv4/conf/" + name + "/rp_filter")
	return err == nil && err2 == nil && max(all, own) == "1"
}

func isSetTo(key string, values ...string) bool {
	has, err := sysctl.Get(key)
	return err == nil && slices.Contains(values, has)
}

func (s *netstack) makeDevice(d device) (int, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = d.name, d.mtu, d.mac[:]
	err := s.handle.LinkAdd(&netlink.Vxlan{
		LinkAttrs: attrs, VxlanId: d.vni, Port: d.port, SrcAddr: d.local.AsSlice(), VtepDevIndex: d.parent, Learning: d.learning,
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		return 0, fmt.Errorf("the kernel has no VXLAN: install the kernel's module package or use a kernel built with CONFIG_VXLAN (%w)", err)
	}
	if err != nil {
		return 0, err
	}
	l, err := s.handle.LinkByName(d.name)
	if err != nil {
		return 0, err
	}
	// The device talks to peers alone: nobody would hear what the kernel says on it by
	// itself (neighbour discovery, group membership). IPv6 may be off.
	if err := s.handle.LinkSetIP6AddrGenMode(l, nl.IN6_ADDR_GEN_MODE_NONE); err != nil && sysctl.Exists("net/ipv6/conf/"+d.name) {
		return 0, fmt.Errorf("switching link-local addresses off: %w", err)
	}
	return l.Attrs().Index, nil
}

func (s *netstack) removeDevice(d device) error {
	l, err := s.handle.LinkByIndex(d.index)
	if err == nil {
		err = s.handle.LinkDel(l)
	}
	if err != nil && !rtnl.IsGone(err) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing link %s: %w", d.name, err)
	}
	return nil
}

func (s *netstack) adjustDevice(has, want device) error {
	l := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: has.index, Name: want.name}}
	var errs []error
	try := func(needed bool, doing string, do func() error) {
		if !needed {
			return
		}
		if err := do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", doing, err))
		}
	}
	conf := func(family, key, value string) func() error {
		return func() error { return sysctl.Set(s.log, filepath.Join("net", family, "conf", want.name, key), value) }
	}
	try(has.mac != want.mac, "changing the MAC address", func() error { return s.handle.LinkSetHardwareAddr(l, want.mac[:]) })
	try(has.mtu != want.mtu, "changing the MTU", func() error { return s.handle.LinkSetMTU(l, want.mtu) })
	try(has.strictRPFilter, "loosening rp_filter", conf("ipv4", "rp_filter", "2"))
	try(has.acceptsRA, "refusing router advertisements", conf("ipv6", "accept_ra", "0"))
	try(has.txChecksum && !want.txChecksum, "switching checksum offload off", func() error { return switchChecksumOffloadOff(want.name) })
	try(has.addrs != want.addrs, "changing addresses", func() error { return s.setAddrs(l, has.addrs, want.addrs) })
	try(!has.up, "setting it up", func() error { return s.handle.LinkSetUp(l) })
	return errors.Join(errs...)
}

// setAddrs adds and removes the addresses that differ between two lists.
func (s *netstack) setAddrs(l netlink.Link, has, want string) error {
	old, wanted := strings.Fields(has), strings.Fields(want)
	var errs []error
	each := func(list, but []string, do func(netlink.Link, *netlink.Addr) error, harmless error) {
		for _, text := range list {
			if slices.Contains(but, text) {
				continue
			}
			addr, err := netlink.ParseAddr(text)
			if err == nil {
				if addr.IP.To4() == nil {
					addr.Flags |= unix.IFA_F_NODAD // no peer has it, and asking takes a second
				}
				err = do(l, addr)
			}
			if err != nil && !errors.Is(err, harmless) {
				errs = append(errs, fmt.Errorf("%s: %w", text, err))
			}
		}
	}
	each(wanted, old, s.handle.AddrAdd, unix.EEXIST)
	each(old, wanted, s.handle.AddrDel, unix.EADDRNOTAVAIL)
	return errors.Join(errs...)
}
