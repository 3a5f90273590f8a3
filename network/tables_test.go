package network

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestWatchRules: each transaction is told once, however much is in it, and nothing
// when nothing changes.
func TestWatchRules(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan struct{}, 1000)
	must(t, WatchRules(ctx, func() { told <- struct{}{} }))
	count := func() (n int) {
		for wait := patience; ; wait = 200 * time.Millisecond {
			select {
			case <-told:
				n++
			case <-time.After(wait):
				return n
			}
		}
	}
	var elements []string
	for n := range 200 {
		elements = append(elements, fmt.Sprintf("10.0.0.%d", n))
	}
	for _, change := range []string{
		"add table ip somebody; add set ip somebody many { type ipv4_addr; }; add chain ip somebody many-rules; add element ip somebody many { " + strings.Join(elements, ", ") + " }",
		"add rule ip somebody many-rules ip saddr @many drop",
		"flush ruleset",
	} {
		nft(t, change)
		nft(t, "list ruleset")
		if got := count(); got != 1 {
			t.Errorf("%d messages of %.50q, want 1", got, change)
		}
	}
}

func TestTableShape(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	shape := func(family, name string) TableShape {
		shape, err := LookAtTable(family, name)
		must(t, err)
		return shape
	}
	if got := shape("ip", "a"); got != (TableShape{}) {
		t.Errorf("of no table: %v", got)
	}
	const table = "; add chain ip a pre { type nat hook prerouting priority dstnat; }; add chain ip a more; add rule ip a pre jump more; add set ip a s { type ipv4_addr; }"
	nft(t, "add table ip a"+table+"; add table ip b; add table ip6 a")
	seen := map[TableShape]string{shape("ip", "a"): "at first", shape("ip", "b"): "of another table", shape("ip6", "a"): "of another family"}
	if len(seen) != 3 {
		t.Errorf("tables have one shape: %v", seen)
	}
	first := shape("ip", "a")
	for _, harmless := range []string{"add rule ip a more drop", "add element ip a s { 10.0.0.1 }", "add chain ip a third", "add table ip c"} {
		nft(t, harmless)
		if got := shape("ip", "a"); got != first {
			t.Errorf("after %q: %v, want %v", harmless, got, first)
		}
	}
	for _, damage := range []string{"flush chain ip a pre", "flush table ip a; delete chain ip a pre", "delete table ip a; add table ip a" + table, "flush ruleset"} {
		nft(t, damage)
		if got := shape("ip", "a"); seen[got] != "" {
			t.Errorf("after %q it has the shape of %s", damage, seen[got])
		} else {
			seen[got] = "after " + damage
		}
	}
}

// portPod is a pod on the node's bridge that has host ports, with what the plugins and
// their library leave on disk of it.
func portPod(t *testing.T, n *testNode, s stacks, container string) {
	t.Helper()
	leases := n.cfg.leases()
	must(t, os.MkdirAll(leases, 0o755))
	var ips []string
	for _, a := range s.podAddrs(n.number) {
		must(t, os.WriteFile(filepath.Join(leases, a), []byte(container+"\r\neth0"), 0o644))
		ips = append(ips, fmt.Sprintf(`{"address": "%s/24"}`, a))
	}
	sandbox := filepath.Join(t.TempDir(), "netns")
	must(t, os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.pod), sandbox))
	results := filepath.Join(n.cfg.CNICacheDir, "results")
	must(t, os.MkdirAll(results, 0o755))
	must(t, os.WriteFile(filepath.Join(results, "brink-"+container+"-eth0"), []byte(fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "networkName": "brink",
		"capabilityArgs": {"portMappings": [{"HostPort": 80, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""}, {"HostPort": 81, "ContainerPort": 8080, "Protocol": "TCP", "HostIP": "192.0.0.1"}, {"HostPort": 82, "ContainerPort": 8080, "Protocol": "udp"}, {"HostPort": 0, "ContainerPort": 1, "Protocol": "tcp"}]},
		"result": {"interfaces": [{"name": "brink0"}, {"name": "pod"}, {"name": "eth0", "sandbox": %q}], "ips": [%s]}}`, container, sandbox, strings.Join(ips, ", "))), 0o600))
}

// TestHostPortsComeBack: whatever somebody deletes of them, at once where a table goes.
func TestHostPortsComeBack(t *testing.T) {
	t.Parallel()
	s := allStacks["dual stack"]
	newSegment(t)
	n := newNode(t, s, 0, 1, None)
	outside := stranger(t, s)
	portPod(t, n, s, "one")
	n.cfg.CheckEvery = 24 * time.Hour // events alone must do
	n.run(t)
	reached := func(what string) {
		t.Helper()
		for _, at := range []string{"192.0.0.1:80", "192.0.0.1:81", "[2001:db8::1]:80"} {
			eventually(t, what+": "+at, func() bool {
				_, err := callPort(outside, netip.MustParseAddrPort(at), 300*time.Millisecond)
				return err == nil
			})
		}
		if _, err := callPort(outside, netip.MustParseAddrPort("[2001:db8::1]:81"), 300*time.Millisecond); err == nil {
			t.Error("a port of an IPv4 address answers by IPv6")
		}
		if got := sh(t, n.ns, "nft list ruleset"); strings.Count(got, "dport 80 dnat") != 2 || strings.Count(got, "dport 81 dnat") != 1 {
			t.Errorf("%s:\n%s", what, got)
		}
	}
	reached("deleted while brink did not run")
	for _, damage := range []string{"nft flush ruleset", "nft delete table ip cni_hostport", "nft delete table ip6 cni_hostport", "nft flush ruleset; nft add table ip cni_hostport; nft add chain ip cni_hostport hostports"} {
		sh(t, n.ns, damage)
		reached(damage)
	}
	// Without a table that is new it takes a second look, since a pod may be going.
	sh(t, n.ns, "nft flush chain ip cni_hostport hostports")
	eventually(t, "the ports are back", func() bool {
		signal(n.network.wake)
		return strings.Contains(sh(t, n.ns, "nft list table ip cni_hostport"), "dport 80 dnat")
	})
	reached("rules deleted")
}

// TestHostPortsDeletedDuringALook: a table that goes while another look is under way
// is missed by nobody.
func TestHostPortsDeletedDuringALook(t *testing.T) {
	t.Parallel()
	s := allStacks["IPv4"]
	newSegment(t)
	n := newNode(t, s, 0, 1, None)
	portPod(t, n, s, "one")
	inside(t, n.ns, func() error {
		h := hostPorts{cfg: n.cfg.withDefaults(), wake: func() {}}
		must(t, h.reconcile(t.Context()))
		for _, wrote := range []bool{true, false} { // with and without a repair to check
			if !wrote {
				must(t, h.reconcile(t.Context()))
			}
			before, err := hostPortTables()
			must(t, err)
			nft(t, "delete table ip cni_hostport") // just after the look at the tables
			_, err = h.restore(t.Context(), before)
			must(t, err)
			for range 2 {
				must(t, h.reconcile(t.Context()))
			}
			if got := nft(t, "list ruleset"); strings.Count(got, "dport 80 dnat") != 1 {
				t.Errorf("it has\n%s", got)
			}
		}
		return nil
	})
}

// TestHostPortsOfGoingPods: what is written for a pod that is just being removed goes
// again, and one of before a reboot gets nothing.
func TestHostPortsOfGoingPods(t *testing.T) {
	t.Parallel()
	s := allStacks["IPv4"]
	newSegment(t)
	n := newNode(t, s, 0, 1, None)
	portPod(t, n, s, "one")
	inside(t, n.ns, func() error {
		h := hostPorts{cfg: n.cfg.withDefaults(), wake: func() {}}
		must(t, h.reconcile(t.Context()))
		if got := nft(t, "list ruleset"); !strings.Contains(got, `comment "one"`) {
			t.Errorf("no rule:\n%s", got)
		}
		must(t, os.RemoveAll(n.cfg.leases()))
		must(t, h.reconcile(t.Context()))
		if got := nft(t, "list ruleset"); strings.Contains(got, `comment "one"`) {
			t.Errorf("left:\n%s", got)
		}
		return nil
	})
	portPod(t, n, s, "two")
	results := filepath.Join(n.cfg.CNICacheDir, "results", "brink-two-eth0")
	text, err := os.ReadFile(results)
	must(t, err)
	must(t, os.WriteFile(results, []byte(strings.ReplaceAll(string(text), `"sandbox": "`, `"sandbox": "/gone`)), 0o600))
	inside(t, n.ns, func() error {
		nft(t, "flush ruleset")
		h := hostPorts{cfg: n.cfg.withDefaults(), wake: func() {}}
		must(t, h.reconcile(t.Context()))
		if got := nft(t, "list ruleset"); got != "" {
			t.Errorf("of a pod without a network namespace there is\n%s", got)
		}
		return nil
	})
}
