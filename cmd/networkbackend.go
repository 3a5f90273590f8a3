package cmd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"brink/network"
)

// The network backend has two names: k3s's users know the first.
const (
	backendFlag  = "flannel-backend"
	backendAlias = "network-backend"
)

// backends are the values, the default first.
var backends = []string{string(network.VXLAN), string(network.HostGW), string(network.None)}

// foreignBackends are k3s's and flannel's others, with what there is instead.
var foreignBackends = map[string]string{
	"wireguard-native": "brink does not encrypt between nodes: use vxlan, inside of a WireGuard of your own where the network cannot be trusted",
	"wireguard":        "brink does not encrypt between nodes: use vxlan, inside of a WireGuard of your own where the network cannot be trusted",
	"ipsec":            "brink does not encrypt between nodes: use vxlan, inside of a VPN of your own where the network cannot be trusted",
	"udp":              "use vxlan, which does in the kernel what udp does in a process",
	"ipip":             "use vxlan, or host-gw where all nodes share a segment",
	"extension":        "use none and a CNI plugin of your own",
	"alloc":            "use none and a network of your own",
}

// networkBackend returns how pods reach pods on other nodes.
func networkBackend(c *cli.Context) (string, error) {
	name, value := backendFlag, c.String(backendFlag)
	if alias := c.String(backendAlias); alias != "" {
		if c.IsSet(backendFlag) && alias != value {
			return "", fmt.Errorf("--%s=%s: --%s, which is the same, says %s: give one of them", backendAlias, alias, backendFlag, value)
		}
		name, value = backendAlias, alias
	}
	if slices.Contains(backends, value) {
		return value, nil
	}
	if instead, ok := foreignBackends[value]; ok {
		return "", fmt.Errorf("--%s=%s: there is no such backend: %s", name, value, instead)
	}
	return "", fmt.Errorf("--%s=%s: must be one of %s", name, value, strings.Join(backends, ", "))
}
