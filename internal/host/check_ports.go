package host

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func (m machine) checkPorts(o CheckOptions) []Check {
	if len(o.Ports) == 0 {
		return nil
	}
	tcp := append(m.listeners("proc/net/tcp", tcpListen), m.listeners("proc/net/tcp6", tcpListen)...)
	udp := append(m.listeners("proc/net/udp", udpOpen), m.listeners("proc/net/udp6", udpOpen)...)
	var checks []Check
	for i, p := range o.Ports {
		listeners := tcp
		if p.UDP {
			listeners = udp
		}
		check := m.checkPort(p, listeners, []int{os.Getpid(), o.PID})
		if check.Result == OK {
			check = cmp.Or(checkOwnPorts(p, o.Ports[:i]), m.checkAddress(p), check)
		}
		checks = append(checks, check)
	}
	return checks
}

// checkOwnPorts is zero unless an earlier listener of brink's own wants the same port.
func checkOwnPorts(p Port, earlier []Port) Check {
	for _, e := range earlier {
		if e.Number == p.Number && e.UDP == p.UDP && overlap(e.Address, p.Address) {
			return fail(p.name(), "choose another for one of them with "+strings.Join(slices.DeleteFunc([]string{e.Flag, p.Flag}, isEmpty), " or "),
				"%s is wanted for the %s and for the %s", p.name(), e.For, p.For)
		}
	}
	return Check{}
}

func isEmpty(text string) bool { return text == "" }

// checkAddress is zero unless the kernel refuses the address because no link has it.
func (m machine) checkAddress(p Port) Check {
	if p.Address.IsValid() && !p.UDP && errors.Is(m.bind(p.Address), syscall.EADDRNOTAVAIL) {
		return fail(p.name(), "give one that ip address shows, or leave it out for all", "%s for the %s is no address of this machine", p.Address, p.For)
	}
	return Check{}
}

func bind(a netip.Addr) error {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
	if err != nil {
		return err
	}
	return l.Close()
}

// name returns the name of the port's check.
func (p Port) name() string {
	if p.UDP {
		return fmt.Sprintf("port %d/udp", p.Number)
	}
	return fmt.Sprintf("port %d", p.Number)
}

func (m machine) checkPort(p Port, listeners []listener, own []int) Check {
	name := p.name()
	for _, l := range listeners {
		if l.address.Port() != p.Number || !overlap(l.address.Addr(), p.Address) {
			continue
		}
		pid := m.holder(l.inode)
		if pid == 0 && p.UDP {
			continue // the kernel's own: a VXLAN device, brink's or one that shares the port
		}
		if pid != 0 && slices.Contains(own, pid) {
			return ok(name, "in use by brink for the %s", p.For)
		}
		return fail(name, portFix(p), "%s for the %s is taken by %s", name, p.For, m.describe(pid))
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

// overlap reports whether listeners on both addresses exclude each other. The zero
// address is all addresses, and so is IPv6's unspecified one.
func overlap(a, b netip.Addr) bool {
	every := func(x netip.Addr) bool { return !x.IsValid() || x.IsUnspecified() }
	return every(a) || every(b) || a.Unmap() == b.Unmap()
}

// States of sockets, include/net/tcp_states.h.
const (
	tcpListen = "0A"
	udpOpen   = "07" // TCP_CLOSE: not connected
)

// listener is a socket that accepts connections or datagrams.
type listener struct {
	address netip.AddrPort
	inode   string
}

// listeners reads a table of the kernel's sockets.
func (m machine) listeners(file, listen string) []listener {
	const local, state, inode = 1, 3, 9
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

// parseAddress parses "0100007F:192B": 32-bit words in the machine's byte order.
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

// holder returns the process that has the socket open, or 0.
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
