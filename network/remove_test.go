package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

func linkNames(t *testing.T) string {
	t.Helper()
	links, err := allLinks()
	must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

func TestRemove(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	cfg := dualStack(t)
	runBriefly(t, ns, cfg)
	bridge := addBridge(t, "brink0")
	pod, stranger := otherNetns(t), otherNetns(t)
	must(t, netlink.LinkSetMaster(connect(t, "pod", pod, nil, nil), bridge))
	connect(t, "stranger", stranger, nil, nil)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "nic" // somebody put a real port on our bridge
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	must(t, netlink.LinkSetMaster(up(t, "nic"), bridge))
	addBridge(t, "docker0")
	nft(t, "add", "table", "inet", "somebody")
	nft(t, "add", "table", "ip", "kube-proxy")
	must(t, os.WriteFile(filepath.Join(cfg.CNIConfDir, "99-other.conf"), nil, 0o644))

	for range 2 { // the second time finds nothing, which is no error
		must(t, Remove(cfg))
		if got := linkNames(t); got != "lo stranger nic docker0" {
			t.Errorf("links left: %s", got)
		}
		if got := nft(t, "list", "tables"); got != "table inet somebody\ntable ip kube-proxy\n" {
			t.Errorf("tables left:\n%s", got)
		}
		if entries, err := os.ReadDir(cfg.CNIConfDir); err != nil || len(entries) != 1 || entries[0].Name() != "99-other.conf" {
			t.Errorf("configuration left: %v %v", entries, err)
		}
		if _, err := os.Stat(cfg.CNIStateDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("state left: %v", err)
		}
	}
}

// runBriefly starts the component and stops it again.
func runBriefly(t *testing.T, ns netns.NsHandle, cfg Config) {
	t.Helper()
	inside(t, ns, func() error {
		ctx, cancel := context.WithCancel(t.Context())
		return New(cfg).Component().Run(ctx, cancel)
	})
}

func TestStopLeavesEverything(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	cfg := dualStack(t)
	runBriefly(t, ns, cfg)
	if got := nft(t, "list", "table", "inet", "brink"); got != dualStackTable {
		t.Errorf("rules after the stop:\n%s", got)
	}
	if _, err := os.Stat(filepath.Join(cfg.CNIConfDir, conflistName)); err != nil {
		t.Error(err)
	}
}

func TestRemoveLeavesAForeignLinkOfTheName(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "brink0"
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, Port: 4789}))
	if err := Remove(dualStack(t)); err == nil || !strings.Contains(err.Error(), "link brink0 is a vxlan") {
		t.Errorf("got %v", err)
	}
	if got := linkNames(t); got != "lo brink0" {
		t.Errorf("links left: %s", got)
	}
}

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
			privateNetns(t)
			cfg := dualStack(t)
			leases := filepath.Join(cfg.CNIStateDir, networkName)
			must(t, os.MkdirAll(leases, 0o755))
			must(t, os.WriteFile(filepath.Join(leases, "10.42.3.10"), []byte("ours\r\neth0"), 0o644))
			must(t, os.WriteFile(filepath.Join(leases, "lock"), nil, 0o644))
			rules := filepath.Join(t.TempDir(), "rules")
			must(t, os.WriteFile(rules, []byte(fmt.Sprintf(table, tt.rule)), 0o644))
			nft(t, "-f", rules)
			must(t, Remove(cfg))
			if got := nft(t, "list", "ruleset"); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// TestRemoveEmptyHostPorts: when the pods are gone the plugin has left an empty
// table, which goes unless it was there before the node.
func TestRemoveEmptyHostPorts(t *testing.T) {
	t.Parallel()
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("there before: %t", before), func(t *testing.T) {
			t.Parallel()
			ns := privateNetns(t)
			cfg := dualStack(t)
			add := func() { nft(t, "add table ip cni_hostport; add chain ip cni_hostport hostports") }
			if before {
				add()
			}
			runBriefly(t, ns, cfg)
			add()
			runBriefly(t, ns, cfg) // a restart knows no more than the first start
			must(t, Remove(cfg))
			if got := nft(t, "list", "tables"); (got != "") != before {
				t.Errorf("tables are %q", got)
			}
		})
	}
}
