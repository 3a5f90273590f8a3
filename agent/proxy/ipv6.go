package proxy

import (
	"os"
	"strings"
)

// hasIPv6 reports whether the kernel has IPv6 and nobody has switched it off.
func hasIPv6() bool {
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
		return false
	}
	disabled, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err != nil || strings.TrimSpace(string(disabled)) != "1"
}
