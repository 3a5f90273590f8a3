package importlaw

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestImports(t *testing.T) {
	t.Parallel()
	eachFile(t, func(s source) {
		if layer[top(s.dir)] == 0 {
			t.Errorf("%s: %q is no layer of the law: give it a height in this test", s.path, top(s.dir))
		}
		for _, imported := range s.imports() {
			for _, problem := range broken(s.dir, imported) {
				t.Errorf("%s: %s", s.path, problem)
			}
		}
	})
}

// TestMainIsOneFile: the root shows the rooms of the house and nothing of their contents.
func TestMainIsOneFile(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("..", "..", "*.go"))
	if err != nil || len(files) != 1 || filepath.Base(files[0]) != "main.go" {
		t.Errorf("Go files at the root are %q (%v): commands belong to cmd, a process to cmd/node", files, err)
	}
}

// TestRulesNamePackages: a rule for a package that has moved allows, or forbids, nothing.
func TestRulesNamePackages(t *testing.T) {
	t.Parallel()
	var dirs []string
	eachFile(t, func(s source) { dirs = append(dirs, s.dir) })
	check := func(rule string, patterns ...string) {
		for _, p := range patterns {
			root := strings.TrimSuffix(p, "/...")
			if !slices.ContainsFunc(dirs, func(dir string) bool { return within(dir, root) }) {
				t.Errorf("the rule for %s names %s, which is no package: has it moved?", rule, p)
			}
		}
	}
	for _, r := range only {
		check(r.outside, r.inside...)
		if ours, ok := strings.CutPrefix(r.outside, "brink/"); ok {
			check(r.outside, ours)
		}
	}
	for _, w := range walls {
		check(w.room, append(w.may, w.room)...)
	}
	for _, m := range internalMay {
		check(m.outside, m.inside...)
	}
	for _, e := range exits {
		check(e.in, e.where...)
	}
	for _, g := range globals {
		check(g.in, g.where...)
	}
}

// broken returns the rules that a package in dir breaks by an import.
func broken(dir, imported string) []string {
	var out []string
	if ours, ok := strings.CutPrefix(imported, "brink/"); ok {
		from, to := top(dir), top(ours)
		switch {
		case layer[from] == 0 || layer[to] == 0:
			out = append(out, fmt.Sprintf("imports %s: %q or %q is no layer of the law: give it a height in this test", imported, from, to))
		case from != to && layer[to] > layer[from]:
			out = append(out, fmt.Sprintf("imports %s: %s is above %s", imported, to, from))
		case from != to && layer[to] == layer[from]:
			out = append(out, fmt.Sprintf("imports %s: %s and %s must work without each other, cmd/node composes them", imported, from, to))
		}
	}
	for _, rule := range only {
		if rule.isForTests() && isForTests(dir) {
			continue // what only tests import may use each other
		}
		if within(imported, rule.outside) && !slices.ContainsFunc(rule.inside, func(p string) bool { return allowed(dir, p) }) {
			out = append(out, fmt.Sprintf("imports %s: %s", imported, rule.why))
		}
	}
	return append(out, brokenInside(dir, imported)...)
}

// brokenInside returns the walls that an import goes through, and what a package below
// internal may not depend on.
func brokenInside(dir, imported string) []string {
	var out []string
	ours, isOurs := strings.CutPrefix(imported, "brink/")
	for _, w := range walls {
		isInside := within(dir, w.room) && isOurs && top(ours) == top(dir) && !within(ours, w.room)
		if isInside && !slices.ContainsFunc(w.may, func(p string) bool { return allowed(ours, p) }) {
			out = append(out, fmt.Sprintf("imports %s: %s", imported, w.why))
		}
	}
	if within(dir, "internal") && isThirdParty(imported) && !internalMayImport(dir, imported) {
		out = append(out, fmt.Sprintf("imports %s: packages below internal have no dependencies but those listed in this test", imported))
	}
	return out
}

// isThirdParty tells modules by the dot in their host from the standard library.
func isThirdParty(imported string) bool { return strings.Contains(top(imported), ".") }

func internalMayImport(dir, imported string) bool {
	for _, may := range internalMay {
		if within(imported, may.outside) && slices.ContainsFunc(may.inside, func(p string) bool { return allowed(dir, p) }) {
			return true
		}
	}
	return false
}

// top is the part of the law that a package belongs to.
func top(dir string) string {
	if within(dir, "cmd/node") {
		return "cmd/node"
	}
	first, _, _ := strings.Cut(dir, "/")
	return first
}

func within(path, root string) bool { return path == root || strings.HasPrefix(path, root+"/") }

func allowed(dir, pattern string) bool {
	if root, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(dir, root)
	}
	return dir == pattern
}

// brokenCases are imports, and whether they break a rule.
var brokenCases = []struct {
	dir, imported string
	broken        bool
}{
	{"server", "brink/datastore", false},
	{"datastore", "brink/server", true},
	{"server", "brink/agent", true},
	{"network", "brink/runtime", true},
	{"internal/host", "brink/network", true},
	{"internal/host", "brink/internal/layout", false},
	{"", "brink/cmd", false},
	{"cmd", "brink/cmd/node", false},
	{"cmd/node", "brink/agent", false},
	{"cmd/node", "brink/cmd", true},
	{"cmd/node/upstream", "brink/cmd/node", true},
	{"agent", "brink/cmd/node/upstream", true},
	{"cmd/node", "github.com/urfave/cli/v2", true},
	{"cmd", "github.com/urfave/cli/v2", false},
	{"cmd", "os/signal", true},
	{"agent", "k8s.io/kubernetes/cmd/kubelet/app", true},
	{"agent/kubelet", "k8s.io/kubernetes/cmd/kubelet/app", false},
	{"runtime/images", "github.com/containerd/containerd/v2/client", false},
	{"runtime/payload", "github.com/containerd/containerd/v2/client", true},
	{"runtime/images", "brink/runtime/containerd", true},
	{"runtime/containerd", "brink/runtime/images", false},
	{"agent", "github.com/vishvananda/netlink", true},
	{"server", "os/signal", true},
	{"server", "k8s.io/client-go/rest", false},
	{"internal/host", "golang.org/x/sys/unix", false},
	{"internal/host", "github.com/spf13/pflag", true},
	{"internal/componentargs", "github.com/spf13/pflag", false},
	{"internal/componentargs", "go.yaml.in/yaml/v3", true},
	{"internal/wire/nodestatus", "k8s.io/api/core/v1", false},
	{"internal/wire/nodestatus", "k8s.io/client-go/rest", true},
	{"internal/wire/nodeuser", "k8s.io/api/core/v1", true},
	{"internal/host", "encoding/json", false},
	{"internal/host", "testing", true},
	{"internal/testdisk", "testing", false},
	{"runtime", "testing/iotest", true},
	{"runtime", "brink/internal/testdisk", true},
	{"network/testnet", "brink/internal/testneed", false},
	{"agent", "brink/internal/testprocess", true},
	{"network", "brink/network/overlay", false},
	{"network/overlay", "brink/network/rtnl", false},
	{"network/overlay", "brink/network/pods", true},
	{"network/pods", "brink/network/overlay", true},
	{"network/pods", "brink/network", true},
	{"agent", "brink/network/overlay", true},
	{"network/nftables", "sigs.k8s.io/knftables", false},
	{"network/pods", "brink/network/testnet", true},
	{"agent/uninstall", "brink/agent/kubelet", true},
	{"agent/uninstall", "brink/agent", true},
	{"agent/uninstall", "brink/agent/ledger", false},
	{"agent/uninstall", "brink/internal/layout", false},
	{"network/overlay", "brink/network/pods", true},
	{"network/pods", "brink/network", true},
	{"network/overlay/kernel", "brink/network/pods", true},
	{"gadgets", "brink/internal/layout", true},
	{"", "brink/gadgets", true},
}

func TestBrokenSeesEachKind(t *testing.T) {
	t.Parallel()
	for _, c := range brokenCases {
		if got := len(broken(c.dir, c.imported)) > 0; got != c.broken {
			t.Errorf("%q importing %s: broken %v, want %v", c.dir, c.imported, got, c.broken)
		}
	}
}
