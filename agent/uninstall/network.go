package uninstall

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"brink/agent/ledger"
	"brink/internal/layout"
	"brink/network"
	"brink/network/nftables"
)

// removeNetwork removes the pod network's links and rules. They have the same names for
// every node in a network namespace, so they stay while another node runs there.
func (u *run) removeNetwork(ctx context.Context) {
	if !hasNetwork(u.Layout) {
		return
	}
	if pid := neighbour(u.Layout); pid != 0 {
		u.Kept(fmt.Sprintf("links and rules of the pod network: another brink, pid %d, uses them", pid))
		return
	}
	links, tables := linkNames(), tableNames()
	u.failed(network.Remove(network.Config{CNIConfDir: u.Layout.CNIConf(), CNIStateDir: u.Layout.CNIState()}))
	u.failed(u.RemoveProxy(ctx))
	u.report("link", links, linkNames())
	u.report("nftables table", tables, tableNames())
}

// removeSettings gives kernel settings their old values, unless another brink on this
// machine needs the present ones.
func (u *run) removeSettings() {
	settings := ledger.Settings(u.entries)
	if others := otherBrinks(u.Layout); len(others) > 0 && len(settings) > 0 {
		u.Kept(fmt.Sprintf("kernel settings: another brink, pid %d, uses them", others[0]))
		return
	}
	var names []string
	for _, s := range settings {
		changed, err := s.PutBack()
		u.failed(err)
		if changed {
			names = append(names, fmt.Sprintf("%s=%s", s.Name(), s.Old))
		}
	}
	if len(names) > 0 {
		u.Removed("the changes of kernel settings, now " + strings.Join(names, " "))
	}
}

// report reports what is in before and not in after.
func (u *run) report(what string, before, after []string) {
	gone := slices.DeleteFunc(before, func(name string) bool { return slices.Contains(after, name) })
	if len(gone) > 0 {
		u.Removed(what + " " + strings.Join(gone, ", "))
	}
}

// hasNetwork reports whether the node has a network, by its files. Where they are gone the
// rules count, but only for the machine's default node: they have brink's name, not the
// node's.
func hasNetwork(l layout.Layout) bool {
	for _, path := range []string{l.CNIState(), l.NetworkConfig()} {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return l.IsDefault() && slices.Contains(tableNames(), "inet brink") && neighbour(l) == 0
}

// tableNames returns the nftables tables of this network namespace, "FAMILY NAME". It is
// empty on a kernel without nftables, where nothing can have made one.
func tableNames() []string {
	tables, _ := nftables.Tables()
	return tables
}

// linkNames returns the links of this network namespace, without the pods' ends of links,
// which are in others.
func linkNames() []string {
	links, _ := net.Interfaces()
	var out []string
	for _, l := range links {
		out = append(out, l.Name)
	}
	return out
}

// neighbour returns the process id of a brink with another data directory that runs
// in this network namespace, or 0.
func neighbour(l layout.Layout) int {
	for _, pid := range otherBrinks(l) {
		if sameLink(procFile(pid, "ns/net"), "/proc/self/ns/net") {
			return pid
		}
	}
	return 0
}

// otherBrinks returns the process ids of brinks with other data directories on this
// machine. It finds them by their status sockets.
func otherBrinks(l layout.Layout) []int {
	own := l.StatusSocket()
	pattern := filepath.Join(filepath.Dir(filepath.Dir(own)), "brink*", filepath.Base(own))
	sockets, _ := filepath.Glob(pattern)
	var pids []int
	for _, path := range sockets {
		if path == own {
			continue
		}
		if pid := listenerOf(path); pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// listenerOf returns the process that accepts connections on a socket, or 0.
func listenerOf(socket string) int {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if peer, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid
}
