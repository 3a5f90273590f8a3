package pods

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"brink/internal/atomicfile"
	"brink/internal/layout"
	"brink/network/iprange"
)

const (
	// networkName is also the directory of the leases below StateDir.
	networkName  = layout.NetworkName
	conflistName = layout.CNIConfig
)

// The types below are the parts of the CNI specification 1.1.0 and of the
// plugins' documentation (github.com/containernetworking/plugins v1.9.1) that
// are used here.
type conflist struct {
	CNIVersion string   `json:"cniVersion"`
	Name       string   `json:"name"`
	Plugins    []plugin `json:"plugins"`
}

type plugin struct {
	Type string `json:"type"`

	// bridge
	Bridge       string `json:"bridge,omitempty"`
	IsGateway    bool   `json:"isGateway,omitempty"`
	ForceAddress bool   `json:"forceAddress,omitempty"`
	HairpinMode  bool   `json:"hairpinMode,omitempty"`
	MTU          int    `json:"mtu,omitempty"`
	IPAM         *ipam  `json:"ipam,omitempty"`

	// portmap
	Capabilities map[string]bool `json:"capabilities,omitempty"`
	Backend      string          `json:"backend,omitempty"`
	SNAT         bool            `json:"snat,omitempty"`
}

type ipam struct {
	Type    string     `json:"type"`
	DataDir string     `json:"dataDir"`
	Ranges  [][]subnet `json:"ranges"` // a pod gets an address of each
	Routes  []route    `json:"routes"`
}

type subnet struct {
	Subnet string `json:"subnet"`
}

type route struct {
	Dst string `json:"dst"`
}

// wantedConflist is the CNI configuration of this node. The bridge takes a new
// address by force when the node was given another prefix.
func wantedConflist(cfg Config, mtu int) ([]byte, error) {
	list := conflist{CNIVersion: "1.1.0", Name: networkName, Plugins: []plugin{
		{
			Type:         "bridge",
			Bridge:       cfg.Bridge,
			IsGateway:    true,
			ForceAddress: true,
			HairpinMode:  hairpinMode,
			MTU:          mtu,
			IPAM:         wantedIPAM(cfg),
		},
		{
			Type:         "portmap",
			Capabilities: map[string]bool{"portMappings": true},
			Backend:      "nftables",
			SNAT:         true,
		},
	}}
	data, err := json.MarshalIndent(list, "", "  ")
	return append(data, '\n'), err
}

func wantedIPAM(cfg Config) *ipam {
	out := &ipam{Type: "host-local", DataDir: cfg.StateDir}
	for _, p := range iprange.IPv4First(cfg.NodeCIDRs) {
		out.Ranges = append(out.Ranges, []subnet{{p.String()}})
		out.Routes = append(out.Routes, route{netip.PrefixFrom(p.Addr(), 0).Masked().String()})
	}
	return out
}

// writeConflist writes the configuration unless it is there already.
func writeConflist(cfg Config, mtu int) error {
	want, err := wantedConflist(cfg, mtu)
	if err != nil {
		return fmt.Errorf("making the CNI configuration: %w", err)
	}
	if err := os.MkdirAll(cfg.StateDir, 0o755); err != nil {
		return fmt.Errorf("making the directory of address leases: %w", err)
	}
	return atomicfile.Keep(filepath.Join(cfg.ConfDir, conflistName), want, 0o644)
}
