package nodeaddr

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

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
