package nodeaddr

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// route is what matters of one of the kernel's.
type route struct {
	link   int // index; of several next hops the first one's
	metric uint32
}

// defaultInterface is the interface of the default route with the lowest metric in
// the main table. Policy routing has others, such as that of a VPN which takes all
// but its own packets: by those nobody finds the machine. /proc/net/ipv6_route shows
// all tables alike.
func defaultInterface(v4 bool) (string, error) {
	family := unix.AF_INET
	if !v4 {
		family = unix.AF_INET6
	}
	var routes []route
	err := error(unix.EINTR)
	for tries := 0; tries < 3 && errors.Is(err, unix.EINTR); tries++ {
		routes, err = defaultRoutes(family)
	}
	if err != nil {
		return "", fmt.Errorf("asking the kernel for its routes: %w", err)
	}
	if len(routes) == 0 {
		return "", errors.New("no default route")
	}
	best := slices.MinFunc(routes, func(a, b route) int { return cmp.Compare(a.metric, b.metric) })
	link, err := net.InterfaceByIndex(best.link)
	if err != nil {
		return "", err
	}
	return link.Name, nil
}

// defaultRoutes asks by rtnetlink(7).
func defaultRoutes(family int) ([]route, error) {
	answer, err := syscall.NetlinkRIB(unix.RTM_GETROUTE, family)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return nil, err
	}
	var out []route
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWROUTE || len(m.Data) < unix.SizeofRtMsg {
			continue
		}
		about := (*unix.RtMsg)(unsafe.Pointer(&m.Data[0]))
		if about.Table != unix.RT_TABLE_MAIN || about.Type != unix.RTN_UNICAST || about.Dst_len != 0 || int(about.Family) != family {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&m)
		if err != nil {
			return nil, err
		}
		if r := parseRoute(attrs); r.link != 0 {
			out = append(out, r)
		}
	}
	return out, nil
}

func parseRoute(attrs []syscall.NetlinkRouteAttr) (r route) {
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.RTA_OIF && len(a.Value) == 4:
			r.link = int(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unix.RTA_PRIORITY && len(a.Value) == 4:
			r.metric = binary.NativeEndian.Uint32(a.Value)
		case a.Attr.Type == unix.RTA_MULTIPATH && len(a.Value) >= unix.SizeofRtNexthop && r.link == 0:
			r.link = int((*unix.RtNexthop)(unsafe.Pointer(&a.Value[0])).Ifindex)
		}
	}
	return r
}

// Flags of an address in /proc/net/if_inet6, see if_addr.h: IFA_F_TEMPORARY,
// IFA_F_DADFAILED, IFA_F_DEPRECATED and IFA_F_TENTATIVE.
const passingFlags = 0x01 | 0x08 | 0x20 | 0x40

// passingAddrs are the IPv6 addresses that are not there to stay, or not usable.
func passingAddrs(path string) map[netip.Addr]bool {
	f, err := os.Open(path)
	if err != nil {
		return nil // without IPv6 there is no such file
	}
	defer f.Close()
	out := map[netip.Addr]bool{}
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		// Address, index, length of the prefix, scope and flags in hexadecimal; name.
		fields := strings.Fields(scanner.Text())
		if len(fields) < 6 {
			continue
		}
		bytes, err := hex.DecodeString(fields[0])
		addr, ok := netip.AddrFromSlice(bytes)
		flags, flagsErr := strconv.ParseUint(fields[4], 16, 32)
		if errors.Join(err, flagsErr) == nil && ok && flags&passingFlags != 0 {
			out[addr] = true
		}
	}
	return out
}
