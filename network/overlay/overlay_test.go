package overlay

import (
	"testing"

	"brink/internal/testaddr"
	"brink/network/testnet"
)

func TestInvalidConfig(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Config){
		"the node has no address for other nodes":                                             func(c *Config) { c.Underlay = nil },
		"the node's address 127.0.0.1 cannot be reached from other nodes":                     func(c *Config) { c.Underlay = testaddr.Addrs("127.0.0.1") },
		"the node's addresses [192.0.2.1 192.0.2.2] must be at most one of each family":       func(c *Config) { c.Underlay = testaddr.Addrs("192.0.2.1", "192.0.2.2") },
		`network backend "wireguard" is none of vxlan, host-gw, none`:                         func(c *Config) { c.Backend = "wireguard" },
		"VXLAN port 65536 is not between 1 and 65535":                                         func(c *Config) { c.Port = 65536 },
		"VXLAN network identifier 16777216 is not between 1 and 16777215":                     func(c *Config) { c.VNI = 1 << 24 },
		`VXLAN device name "a-name-of-16-byte" is longer than the 15 bytes the kernel allows`: func(c *Config) { c.Device = "a-name-of-16-byte" },
	} {
		cfg := fakeConfig(VXLAN)
		testnet.Must(t, cfg.Validate())
		change(&cfg)
		if err := cfg.Validate(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}
