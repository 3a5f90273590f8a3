// Package nodeaddr finds the addresses by which other machines reach this one,
// for users who did not say.
package nodeaddr

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// ErrNone is returned when no interface has a usable address.
var ErrNone = errors.New("no network address found on any interface that is up: connect the network or give --node-ip")

// Find returns the node's address of each wanted family, in the given order of
// preference: addresses of the interface that the default route of the family
// uses, else of the first interface that is up. families holds the wanted
// families by example, such as the cluster's pod ranges.
func Find(families []netip.Prefix) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, example := range families {
		v4 := example.Addr().Is4()
		if a, ok := find(v4); ok {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, ErrNone
	}
	return out, nil
}

func find(v4 bool) (netip.Addr, bool) {
	if name, err := defaultInterface(v4); err == nil {
		if link, err := net.InterfaceByName(name); err == nil {
			if a, ok := address(*link, v4); ok {
				return a, true
			}
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		return netip.Addr{}, false
	}
	for _, link := range links {
		if link.Flags&net.FlagUp == 0 || link.Flags&net.FlagLoopback != 0 {
			continue
		}
		if a, ok := address(link, v4); ok {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// address returns the interface's first address that is valid beyond the link.
func address(link net.Interface, v4 bool) (netip.Addr, bool) {
	addrs, err := link.Addrs()
	if err != nil {
		return netip.Addr{}, false
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() == v4 && p.Addr().IsGlobalUnicast() {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// defaultInterface reads the kernel's routing table: the interface of the
// default route with the lowest metric.
func defaultInterface(v4 bool) (string, error) {
	path := "/proc/net/route"
	if !v4 {
		path = "/proc/net/ipv6_route"
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	best, bestMetric := "", uint64(0)
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		name, metric, ok := parseDefault(scanner.Text(), v4)
		if ok && (best == "" || metric < bestMetric) {
			best, bestMetric = name, metric
		}
	}
	if best == "" {
		return "", fmt.Errorf("%s: no default route", path)
	}
	return best, nil
}

// parseDefault reads one line of /proc/net/route (decimal metric) or
// /proc/net/ipv6_route (hexadecimal metric); ok when it is a default route.
func parseDefault(line string, v4 bool) (name string, metric uint64, ok bool) {
	fields := strings.Fields(line)
	if v4 {
		if len(fields) < 8 || fields[1] != "00000000" || fields[7] != "00000000" {
			return "", 0, false
		}
		metric, err := strconv.ParseUint(fields[6], 10, 32)
		return fields[0], metric, err == nil
	}
	if len(fields) < 10 || strings.Trim(fields[0], "0") != "" || fields[1] != "00" || fields[9] == "lo" {
		return "", 0, false
	}
	metric, err := strconv.ParseUint(fields[5], 16, 32)
	return fields[9], metric, err == nil
}
