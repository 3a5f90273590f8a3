package agent

import (
	"net/netip"
	"os"
	"strings"
)

const (
	hostResolv = "/etc/resolv.conf"
	// systemdResolv is where systemd-resolved keeps the real name servers when
	// /etc/resolv.conf names only itself.
	systemdResolv = "/run/systemd/resolve/resolv.conf"
)

// resolvConf chooses the file from which pods with dnsPolicy Default get name
// servers: one on the host's loopback is out of their reach. The file of
// systemd-resolved is taken also when it names none yet, as before the network
// is up: the kubelet reads it again for every pod.
func resolvConf(host, resolved string) string {
	text, err := os.ReadFile(host)
	if err == nil && hasReachableServer(string(text)) {
		return host
	}
	if _, err := os.Stat(resolved); err == nil {
		return resolved
	}
	return host
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
