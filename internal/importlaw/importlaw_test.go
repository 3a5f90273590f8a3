// Package importlaw has no code, only a test that keeps brink's law of imports.
// Each rule says why it is there; breaking one prints that.
package importlaw

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layer is the height of a package: main above cmd, cmd above cmd/node, that above
// server and agent, those above datastore, network and runtime, those above internal.
var layer = map[string]int{
	"": 6, "cmd": 5, "cmd/node": 4, "server": 3, "agent": 3, "datastore": 2, "network": 2, "runtime": 2, "internal": 1,
}

// only says which packages of ours may import an outside one.
var only = []struct {
	outside string   // an import path or everything below it
	inside  []string // directories, or everything below one that ends in /...
	why     string
}{
	{"k8s.io/kubernetes", []string{"server/controlplane", "agent/kubelet", "agent/proxy"}, "it costs minutes to compile and carries process globals"},
	{"github.com/k3s-io/kine", []string{"datastore"}, "only the datastore knows how state is kept"},
	{"github.com/mattn/go-sqlite3", []string{"datastore"}, "only the datastore knows how state is kept"},
	{"github.com/jackc/pgx", []string{"datastore"}, "only the datastore knows how state is kept"},
	{"github.com/go-sql-driver/mysql", []string{"datastore"}, "only the datastore knows how state is kept"},
	{"github.com/vishvananda/netlink", []string{"network/..."}, "one place changes links and routes"},
	{"sigs.k8s.io/knftables", []string{"network/..."}, "one place changes rules"},
	{"github.com/containerd/containerd", []string{"runtime/containerd/...", "runtime/images", "runtime/testnode"}, "the container runtime is exchangeable from outside"},
	{"golang.org/x/net/http2", []string{"server/tunnel", "agent/tunnel"}, "net/http speaks HTTP/2 by itself; only the tunnel changes its roles"},
	{"github.com/rancher/remotedialer", nil, "server/tunnel says why not"},
	{"github.com/urfave/cli", []string{"cmd"}, "flags and commands are cmd's; packages take a Config"},
	{"github.com/spf13/cobra", nil, "upstream's commands install signal handlers; use their options"},
	{"os/signal", []string{"", "cmd/node/upstream", "runtime/testnode"}, "signals belong to the process"},
	{"testing", []string{"internal/testdisk", "internal/testdocs", "internal/testprocess", "internal/testtree", "network/testnet", "runtime/testnode"}, "it belongs to tests and brings their flags"},
	{"brink/internal/testdatabase", nil, "only tests run databases of their own"},
	{"brink/internal/testdisk", nil, "only tests mount file systems of their own"},
	{"brink/internal/testdocs", nil, "only tests write documentation"},
	{"brink/internal/testprocess", nil, "only tests run themselves again"},
	{"brink/internal/testtree", nil, "only tests make trees of files"},
	{"brink/network/testnet", nil, "only tests make machines of their own"},
	{"brink/runtime/testnode", nil, "only tests run containerd in a process of its own"},
	{"brink/network/overlay", []string{"network"}, "network composes it with the rest of the pod network"},
	{"brink/network/pods", []string{"network"}, "network composes it with the rest of the pod network"},
}

// walls stand inside of a side: what a room there does without, though the law of
// heights would let it.
var walls = []struct{ room, without, why string }{
	{"network/overlay", "brink/network", "network composes its rooms, they do not know it"},
	{"network/pods", "brink/network", "network composes its rooms, they do not know it"},
	{"network/nftables", "brink/network", "network composes its rooms, they do not know it"},
	{"runtime/images", "brink/runtime/containerd", "images talks to a running containerd by its socket, as commands do; containerd may import images"},
	{"runtime/payload", "brink/runtime/containerd", "the payload is files; what runs them gets their paths"},
	{"runtime/payload", "brink/runtime/images", "the payload is files; what runs them gets their paths"},
}

// internalMay lists what packages below internal import from outside. They are
// below everything: what they need all of brink needs.
var internalMay = []struct {
	outside string
	inside  []string
}{
	{"golang.org/x/sys", []string{"internal/..."}},
	{"github.com/spf13/pflag", []string{"internal/componentargs"}},
	{"go.yaml.in/yaml/v3", []string{"internal/configfile", "internal/yamlfile"}},
	{"k8s.io/api", []string{"internal/wire/nodestatus"}}, // the Node is what both sides read
}

// calls that end the process belong to main; build tools are mains of their own.
var endings = []string{"os.Exit(", "log.Fatal"}

func TestImports(t *testing.T) {
	t.Parallel()
	eachFile(t, func(dir, path string, imports []string) {
		if layer[top(dir)] == 0 {
			t.Errorf("%s: %q is no layer of the law: give it a height in this test", path, top(dir))
		}
		for _, imported := range imports {
			for _, problem := range broken(dir, imported) {
				t.Errorf("%s: %s", path, problem)
			}
		}
	})
}

func TestOnlyMainEndsTheProcess(t *testing.T) {
	t.Parallel()
	eachFile(t, func(dir, path string, _ []string) {
		if dir == "" {
			return
		}
		for _, call := range endings {
			if contains(t, path, call) {
				t.Errorf("%s: calls %s...): only main ends the process, return an error", path, call)
			}
		}
	})
}

// TestOnlyRemovetreeRemovesTrees: os.RemoveAll empties what is mounted below.
func TestOnlyRemovetreeRemovesTrees(t *testing.T) {
	t.Parallel()
	eachFile(t, func(dir, path string, _ []string) {
		// Test helpers remove what they made; the other one names what it replaces.
		isFree := strings.HasPrefix(dir, "internal/test") || dir == "runtime/testnode" || dir == "internal/removetree"
		if !isFree && contains(t, path, "os.RemoveAll") {
			t.Errorf("%s: calls os.RemoveAll, which goes through mounts: use internal/removetree", path)
		}
	})
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
		if within(imported, rule.outside) && !slices.ContainsFunc(rule.inside, func(p string) bool { return allowed(dir, p) }) {
			out = append(out, fmt.Sprintf("imports %s: %s", imported, rule.why))
		}
	}
	for _, w := range walls {
		if within(dir, w.room) && imported == w.without {
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

func contains(t *testing.T, path, text string) bool {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(content), text)
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

func TestBrokenSeesEachKind(t *testing.T) {
	t.Parallel()
	cases := []struct {
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
		{"cmd/node/upstream", "brink/cmd/node", false},
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
		{"agent", "brink/internal/testprocess", true},
		{"network", "brink/network/overlay", false},
		{"network/overlay", "brink/network/rtnl", false},
		{"network/overlay", "brink/network/pods", true},
		{"network/pods", "brink/network/overlay", true},
		{"network/pods", "brink/network", true},
		{"agent", "brink/network/overlay", true},
		{"network/nftables", "sigs.k8s.io/knftables", false},
		{"network/pods", "brink/network/testnet", true},
		{"gadgets", "brink/internal/layout", true},
		{"", "brink/gadgets", true},
	}
	for _, c := range cases {
		if got := len(broken(c.dir, c.imported)) > 0; got != c.broken {
			t.Errorf("%q importing %s: broken %v, want %v", c.dir, c.imported, got, c.broken)
		}
	}
}

// eachFile visits every Go file of the module that is not a test, below the
// law: e2e, docs and build tools are not part of the binary.
func eachFile(t *testing.T, visit func(dir, path string, imports []string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{"e2e", "docs", "scripts", "runtime/payload/build", ".git", ".build", "bin"}, rel) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		var imports []string
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			imports = append(imports, imported)
		}
		dir := filepath.ToSlash(filepath.Dir(rel))
		if dir == "." {
			dir = ""
		}
		seen++
		visit(dir, path, imports)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 20 {
		t.Fatalf("only %d files seen: the walk is broken", seen)
	}
}
