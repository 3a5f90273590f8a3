package pods

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"brink/network/testnet"
)

// TestRemoveHostPorts leaves the ports of other CNI networks on the host.
func TestRemoveHostPorts(t *testing.T) {
	t.Parallel()
	const table = `
table ip cni_hostport {
	chain hostports {
		tcp dport 80 dnat to 10.42.3.10:80 comment "ours"
		%s
	}
	chain hostip_hostports {
	}
	chain masquerading {
		type nat hook postrouting priority 100
		ip saddr 10.42.3.10 ip daddr 10.42.3.10 masquerade comment "ours"
	}
}`
	for _, tt := range []struct{ name, rule, want string }{
		{"alone", "", ""},
		{"with others", `tcp dport 81 dnat to 10.88.0.2:80 comment "theirs"`, `table ip cni_hostport {
	chain hostports {
		tcp dport 81 dnat to 10.88.0.2:80 comment "theirs"
	}

	chain hostip_hostports {
	}

	chain masquerading {
		type nat hook postrouting priority srcnat; policy accept;
	}
}
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			testnet.Enter(t)
			cfg := dualStack(t)
			leases := filepath.Join(cfg.StateDir, networkName)
			testnet.Must(t, os.MkdirAll(leases, 0o755))
			testnet.Must(t, os.WriteFile(filepath.Join(leases, "10.42.3.10"), []byte("ours\r\neth0"), 0o644))
			testnet.Must(t, os.WriteFile(filepath.Join(leases, "lock"), nil, 0o644))
			rules := filepath.Join(t.TempDir(), "rules")
			testnet.Must(t, os.WriteFile(rules, []byte(fmt.Sprintf(table, tt.rule)), 0o644))
			testnet.NFT(t, "-f", rules)
			testnet.Must(t, Remove(t.Context(), cfg))
			if got := testnet.NFT(t, "list", "ruleset"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
