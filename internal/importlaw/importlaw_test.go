// Package importlaw has no code, only tests that keep brink's laws: which package may
// import which, who may end the process, and who may set what the whole process shares.
// Each rule says why it is there; breaking one prints that.
//
// The rules are the tables of importlaw_test.go. The other files apply them to the
// sources, without types: a name is resolved by the imports of its file.
package importlaw

import (
	"regexp"
	"strings"
)

// layer is the height of a package: main above cmd, cmd above cmd/node, that above
// server and agent, those above datastore, network and runtime, those above internal.
var layer = map[string]int{
	"": 6, "cmd": 5, "cmd/node": 4, "server": 3, "agent": 3, "datastore": 2, "network": 2, "runtime": 2, "internal": 1,
}

type onlyRule struct {
	outside string   // an import path or everything below it
	inside  []string // directories, or everything below one that ends in /...
	why     string
}

// isForTests tells a package of brink's that nothing but tests imports.
func (r onlyRule) isForTests() bool { return strings.HasPrefix(r.outside, "brink/") && r.inside == nil }

// only says which packages of ours may import an outside one.
var only = []onlyRule{
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
	{"testing", []string{"internal/testdisk", "internal/testdocs", "internal/testerror", "internal/testgoroutines", "internal/testneed", "internal/testprocess", "internal/testtree", "internal/testwait", "network/testnet", "runtime/testnode"}, "it belongs to tests and brings their flags"},
	{"brink/internal/testaddr", nil, "a text that is no address panics"},
	{"brink/internal/testdatabase", nil, "only tests run databases of their own"},
	{"brink/internal/testdisk", nil, "only tests mount file systems of their own"},
	{"brink/internal/testdocs", nil, "only tests write documentation"},
	{"brink/internal/testerror", nil, "only tests check errors by their text"},
	{"brink/internal/testgoroutines", nil, "only tests count what they have started"},
	{"brink/internal/testneed", nil, "only tests ask what the machine has"},
	{"brink/internal/testprocess", nil, "only tests run themselves again"},
	{"brink/internal/testtree", nil, "only tests make trees of files"},
	{"brink/internal/testwait", nil, "only tests wait by looking again and again"},
	{"brink/network/testnet", nil, "only tests make machines of their own"},
	{"brink/runtime/testnode", nil, "only tests run containerd in a process of its own"},
	{"brink/network/overlay", []string{"network"}, "network composes it with the rest of the pod network"},
	{"brink/network/pods", []string{"network"}, "network composes it with the rest of the pod network"},
}

// walls stand inside of a side: all that a room there, and what lies below it, knows
// of its own side. Rooms without a row may know any other.
var walls = []struct {
	room string
	may  []string
	why  string
}{
	{"cmd/node/upstream", nil, "what is set for the whole process does not depend on what a node is"},
	{"agent/uninstall", []string{"agent/cgroups", "agent/ledger", "agent/networkmanager"}, "what takes a node down must not need what runs one"},
	{"agent/cgroups", []string{"agent/ledger"}, "uninstall needs it, which knows nothing of running a node"},
	{"agent/ledger", nil, "it is what the node writes and uninstall reads, and knows neither"},
	{"agent/networkmanager", []string{"agent/ledger"}, "uninstall needs it, which knows nothing of running a node"},
	{"agent/kubelet", nil, "agent composes its rooms, they do not know it or each other"},
	{"agent/proxy", nil, "agent composes its rooms, they do not know it or each other"},
	{"agent/tunnel", nil, "agent composes its rooms, they do not know it or each other"},
	{"agent/servers", nil, "agent composes its rooms, they do not know it or each other"},
	{"agent/join", []string{"agent/servers"}, "joining knows servers and certificates, not what runs afterwards"},
	{"server/token", nil, "it is the one home of tokens: joining, commands and the API server's paths use it"},
	{"server/noderecord", nil, "the gate judges by records; server/join, which writes them, knows it and not the other way"},
	{"server/join", []string{"server/noderecord", "server/token"}, "deciding who joins knows records and tokens, not the server around it"},
	{"server/tunnel", nil, "server composes its rooms, they do not know it or each other"},
	{"server/pki", nil, "server composes its rooms, they do not know it or each other"},
	{"server/snapshot", []string{"server/token"}, "it takes and puts back what lies on the disk, and knows no running server"},
	{"server/inmemory", nil, "a transport knows nothing of what is carried"},
	{"server/controlplane", []string{"server/inmemory", "server/noderecord"}, "server composes its rooms; the gate and the transport are parts of the API server"},
	{"network/overlay", []string{"network/iprange", "network/rtnl", "network/sysctl"}, "network composes its rooms, they do not know it"},
	{"network/pods", []string{"network/iprange", "network/nftables", "network/rtnl", "network/sysctl"}, "network composes its rooms, they do not know it"},
	{"network/nftables", nil, "network composes its rooms, they do not know it"},
	{"runtime/images", nil, "it talks to a running containerd by its socket, as commands do; containerd may import images"},
	{"runtime/payload", nil, "the payload is files; what runs them gets their paths"},
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
	{"k8s.io/api", []string{"internal/wire/nodestatus"}},            // the Node is what both sides read
	{"github.com/klauspost/compress", []string{"internal/release"}}, // a download is packed by zstd
}

// exits are the functions that end the process, by the package they are in. They are
// main's: everybody else returns an error. A method called Fatal counts in any package.
var exits = []struct {
	in    string
	names string   // a regular expression
	where []string // beside main
	why   string
}{
	{"os", `^Exit$`, nil, ""},
	{"syscall", `^Exit$`, nil, ""},
	{"golang.org/x/sys/unix", `^Exit$`, nil, ""},
	{"log", `^Fatal`, nil, ""},
	{"flag", `^ExitOnError$|^Parse$`, nil, ""},
	{"github.com/spf13/pflag", `^ExitOnError$|^Parse$`, nil, ""},
	{"github.com/sirupsen/logrus", `^Fatal(f|ln|Fn)?$|^Exit$`, nil, ""},
	{"k8s.io/klog/v2", `^(Fatal|Exit)|^FlushAndExit$`, nil, ""},
	{"k8s.io/klog", `^(Fatal|Exit)|^FlushAndExit$`, nil, ""},
	{"github.com/urfave/cli/v2", `^HandleExitCoder$|^OsExiter$`, nil, ""},
	{"k8s.io/kubectl/pkg/cmd/util", `^CheckErr$|^CheckDiffErr$`, []string{"cmd"}, "kubectl's exit codes are its own"},
}

type globalRule struct {
	in    string
	names string // a regular expression
	where []string
	why   string
}

func (g globalRule) covers(u use) bool {
	return u.in == g.in && regexp.MustCompile(g.names).MatchString(u.name)
}

// globals are what a process has one of, by the package that sets it. What the embedded
// programs need of them is set by cmd/node/upstream, in one call; the others are here
// with what only they know.
var globals = []globalRule{
	{"os", `^(Setenv|Unsetenv|Clearenv)$`, []string{
		"",                       // gives back the secrets that were hidden
		"cmd",                    // kubectl's KUBECONFIG, and secrets once they are read
		"cmd/node/upstream",      // what systemd says to brink alone, and PATH
		"internal/proxyenv",      // NO_PROXY, by ranges that an agent learns late
		"runtime/containerd/...", // PATH of the embedded programs, ctr's own variables
	}, "the environment is the process's"},
	{"os", `^Args$`, []string{"", "cmd"}, "arguments are the command's"},
	{"runtime/debug", `^Set`, []string{"cmd/node/upstream"}, "the garbage collector is the process's"},
	{"log/slog", `^SetDefault$|^SetLogLoggerLevel$`, []string{"cmd/node/upstream"}, "there is one log"},
	{"log", `^Set`, []string{"cmd/node/upstream"}, "there is one log"},
	{"github.com/sirupsen/logrus", `^(Set|AddHook$|StandardLogger$)`, []string{"cmd/node/upstream"}, "there is one log"},
	{"github.com/containerd/log", `^L$|^SetLevel$|^SetFormat$`, []string{"runtime/containerd"}, "there is one log"},
	{"k8s.io/klog/v2", `^(Set|OsExit$|ClearLogger$|CaptureState$)`, []string{"cmd/node/upstream"}, "there is one log"},
	{"k8s.io/klog/v2", `^InitFlags$`, []string{"runtime/containerd"}, "containerd changes the verbosity, which is set back"},
	{"k8s.io/apimachinery/pkg/util/runtime", `^(ReallyCrash|PanicHandlers|ErrorHandlers)$`, []string{"cmd/node/upstream"}, "a crash is the process's"},
	{"k8s.io/client-go/rest", `^SetDefaultWarningHandler$`, []string{"cmd/node/upstream"}, "clients share it"},
	{"k8s.io/apiserver/pkg/util/feature", `^DefaultMutableFeatureGate$`, []string{"server/controlplane", "agent/kubelet"}, "gates come with the flags that are parsed there"},
	{"k8s.io/apiserver/pkg/util/compatibility", `^DefaultComponentGlobalsRegistry$`, []string{"server/controlplane"}, "gates come with the flags that are parsed there"},
	{"github.com/go-sql-driver/mysql", `^SetLogger$`, []string{"datastore"}, "only the datastore knows the driver"},
	{"syscall", `^(Umask|Setrlimit|Setenv|Unsetenv|Clearenv)$`, []string{"cmd/node/upstream"}, "children inherit it"},
	{"golang.org/x/sys/unix", `^(Umask|Setrlimit|Setenv|Unsetenv|Clearenv)$`, []string{"cmd/node/upstream"}, "children inherit it"},
}

type initialiser struct{ dir, why string }

// initialisers are functions that run at import. Nothing is set by one that the process
// shares, but for the secrets that internal/argsecrets hides before all else.
var initialisers = []initialiser{
	{"internal/layout", "it completes a table of its own"},
	{"runtime/containerd", "containerd's registry of plugins is filled so"},
}
