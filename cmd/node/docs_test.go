package node

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"brink/agent"
	"brink/agent/join"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/testdocs"
	"brink/internal/wire/jointoken"
	"brink/network"
	"brink/network/nodeaddr"
	"brink/server"
)

// serverConfig is that of a server with a node, as flags would make it.
func serverConfig(t *testing.T) Config {
	t.Helper()
	l := layout.New(t.TempDir())
	own := nodeaddr.Given(netip.MustParseAddr("192.0.2.1"))
	pods, services := netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")
	dns := []netip.Addr{netip.MustParseAddr("10.43.0.10")}
	return Config{Layout: l, NodeName: "hub",
		Server: &server.Config{
			Layout: l, NodeName: "hub", Addresses: own, HasAgent: true, BindAddress: netip.IPv6Unspecified(), Port: 6443,
			ClusterCIDRs: []netip.Prefix{pods}, ServiceCIDRs: []netip.Prefix{services}, ClusterDNS: dns, ClusterDomain: "cluster.local",
			Kubeconfig: filepath.Join(t.TempDir(), "brink.yaml"), KubeconfigMode: 0o600,
		},
		Agent: &agent.Config{Layout: l, NodeName: "hub", Addresses: own, Access: &agent.Access{
			API:          func(string, ...string) *rest.Config { return &rest.Config{} },
			ClusterCIDRs: []netip.Prefix{pods}, ServiceCIDRs: []netip.Prefix{services}, ClusterDNS: dns, ClusterDomain: "cluster.local", Backend: network.VXLAN,
		}},
	}
}

// serverComponents are those of a server with a node: the server's own and the node's.
func serverComponents(t *testing.T) (own, node []lifecycle.Component) {
	t.Helper()
	cfg := serverConfig(t)
	srv, err := server.New(*cfg.Server)
	if err != nil {
		t.Fatal(err)
	}
	beside, err := newAgent(cfg, srv)
	if err != nil {
		t.Fatal(err)
	}
	return srv.Components(), beside.Components()
}

// agentComponents are those of a machine that joins.
func agentComponents(t *testing.T) []lifecycle.Component {
	t.Helper()
	l := layout.New(t.TempDir())
	token := jointoken.New(strings.Repeat("0", 64))
	node, err := newAgent(Config{
		Join:  &join.Config{Server: "192.0.2.1:6443", Token: &token, NodeName: "till", Layout: l},
		Agent: &agent.Config{Layout: l, NodeName: "till", Addresses: nodeaddr.NewWatcher(l.NodeAddresses())},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return node.Components()
}

// TestDocs draws the start lists for docs/architecture.md.
func TestDocs(t *testing.T) {
	own, beside := serverComponents(t)
	testdocs.Part(t, "docs/architecture.md", "start",
		"`brink server`, with the node beside it:\n\n"+flowchart(
			box{"server", "the server's, server/components.go", own},
			box{"agent", "the node's, agent/agent.go", beside})+
			"\n`brink agent`:\n\n"+flowchart(box{"agent", "agent/agent.go", agentComponents(t)}))
}

type box struct {
	name, title string
	components  []lifecycle.Component
}

// flowchart draws components in Mermaid's language: an arrow leads from each to those
// that wait for it.
func flowchart(boxes ...box) string {
	var out strings.Builder
	out.WriteString("```mermaid\nflowchart TD\n")
	for _, b := range boxes {
		fmt.Fprintf(&out, "  subgraph %s [\"%s\"]\n", b.name, b.title)
		for _, c := range b.components {
			fmt.Fprintf(&out, "    %s\n", c.Name)
		}
		out.WriteString("  end\n")
	}
	before := ""
	for _, b := range boxes {
		for _, c := range b.components {
			needs := c.Needs
			if needs == nil {
				needs = []string{before}
			}
			for _, name := range needs {
				fmt.Fprintf(&out, "  %s --> %s\n", name, c.Name)
			}
			before = c.Name
		}
	}
	out.WriteString("```\n")
	return out.String()
}

func TestFlowchart(t *testing.T) {
	t.Parallel()
	got := flowchart(
		box{"one", "first", []lifecycle.Component{{Name: "a", Needs: lifecycle.Nothing}, {Name: "b"}}},
		box{"two", "second", []lifecycle.Component{{Name: "c", Needs: []string{"a", "b"}}}},
	)
	const want = "```mermaid\nflowchart TD\n  subgraph one [\"first\"]\n    a\n    b\n  end\n  subgraph two [\"second\"]\n    c\n  end\n" +
		"  a --> b\n  a --> c\n  b --> c\n```\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestNamesOfComponents: a line in the log or of `brink status` names a component of
// either side, so no server has one that is called as one of an agent. The one that both
// have is the same, by whichever of them its process lists it.
func TestNamesOfComponents(t *testing.T) {
	own, beside := serverComponents(t)
	seen := map[string]bool{}
	for _, c := range append(own, agentComponents(t)...) {
		if seen[c.Name] && c.Name != nodeaddr.ComponentName {
			t.Errorf("two components are called %s", c.Name)
		}
		seen[c.Name] = true
	}
	for _, c := range beside {
		if c.Name == nodeaddr.ComponentName {
			t.Error("a server's process watches its addresses twice")
		}
	}
}
