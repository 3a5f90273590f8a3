package host

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func (m machine) checkPorts(o CheckOptions) []Check {
	if len(o.Ports) == 0 {
		return nil
	}
	listeners := append(m.listeners("proc/net/tcp"), m.listeners("proc/net/tcp6")...)
	var checks []Check
	for _, p := range o.Ports {
		checks = append(checks, m.checkPort(p, listeners, []int{os.Getpid(), o.PID}))
	}
	return checks
}

func (m machine) checkPort(p Port, listeners []listener, own []int) Check {
	name := fmt.Sprintf("port %d", p.Number)
	for _, l := range listeners {
		if l.address.Port() != p.Number || !overlap(l.address.Addr(), p.Address) {
			continue
		}
		pid := m.holder(l.inode)
		if pid != 0 && slices.Contains(own, pid) {
			return ok(name, "in use by brink for the %s", p.For)
		}
		return fail(name, portFix(p), "port %d for the %s is taken by %s", p.Number, p.For, m.describe(pid))
	}
	return ok(name, "free for the %s", p.For)
}

func portFix(p Port) string {
	if p.Flag == "" {
		return "stop it"
	}
	return "stop it, or choose another port with " + p.Flag
}

func (m machine) describe(pid int) string {
	if pid == 0 {
		return "a process that cannot be seen from here"
	}
	return fmt.Sprintf("%s (pid %d)", m.read(fmt.Sprintf("proc/%d/comm", pid)), pid)
}

// overlap tells whether listeners on both addresses exclude each other. The
// zero address is all addresses, and so is IPv6's unspecified one.
func overlap(a, b netip.Addr) bool {
	every := func(x netip.Addr) bool { return !x.IsValid() || x.IsUnspecified() }
	return every(a) || every(b) || a.Unmap() == b.Unmap()
}

// listener is a TCP socket in state LISTEN.
type listener struct {
	address netip.AddrPort
	inode   string
}

// listeners reads the kernel's table of TCP sockets.
func (m machine) listeners(file string) []listener {
	const local, state, inode, listen = 1, 3, 9, "0A"
	var out []listener
	for line := range strings.Lines(m.read(file)) {
		fields := strings.Fields(line)
		if len(fields) <= inode || fields[state] != listen {
			continue
		}
		if address, ok := parseAddress(fields[local]); ok {
			out = append(out, listener{address, fields[inode]})
		}
	}
	return out
}

// parseAddress reads "0100007F:192B": 32-bit words in the machine's byte order.
func parseAddress(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	words, err := hex.DecodeString(host)
	if err != nil || len(words)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(words); i += 4 {
		binary.BigEndian.PutUint32(words[i:], binary.NativeEndian.Uint32(words[i:]))
	}
	address, ok := netip.AddrFromSlice(words)
	number, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(address, uint16(number)), ok && err == nil
}

// holder finds the process that has the socket open, or 0.
func (m machine) holder(inode string) int {
	want := "socket:[" + inode + "]"
	links, _ := filepath.Glob(m.path("proc/[0-9]*/fd/*"))
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == want {
			rest, _ := strings.CutPrefix(link, m.path("proc")+"/")
			pid, _ := strconv.Atoi(strings.Split(rest, "/")[0])
			return pid
		}
	}
	return 0
}
