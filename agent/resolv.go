package agent

import (
	"net/netip"
	"os"
	"strings"
)

// systemdResolv is where systemd-resolved keeps the real name servers when
// /etc/resolv.conf names only itself.
const systemdResolv = "/run/systemd/resolve/resolv.conf"

// resolvConf chooses the file from which pods with dnsPolicy Default get name
// servers: one on the host's loopback is out of their reach.
func resolvConf() string {
	for _, path := range []string{"/etc/resolv.conf", systemdResolv} {
		if text, err := os.ReadFile(path); err == nil && hasReachableServer(string(text)) {
			return path
		}
	}
	return "/etc/resolv.conf"
}

func hasReachableServer(text string) bool {
	for _, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && !a.IsLoopback() {
			return true
		}
	}
	return false
}
