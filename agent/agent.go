// Package agent runs the node, the part of brink that runs pods. The kubelet learns from
// the API server which pods this machine is to have, containerd runs them, the pod network
// connects them, and the service proxy leads Services to them. The list in Components
// shows how these parts depend on each other. A node is the machine with these parts; the
// Node, with a capital, is the object in the API server that describes it.
//
// The agent reaches the API server by client configurations that it is given: in memory
// beside a server, by TLS from a machine that has joined.
//
// A machine of its own learns its cluster only by joining. So New checks flags by
// parsing alone, and what needs the cluster is built once, when the node has access to
// it: see connected.
//
// Package uninstall, which takes a node away, is no part of running one and does not know
// this package. It goes by the record that package ledger keeps of what was made.
//
// Read in this order: agent.go (the list), connected.go, then join, kubelet, proxy and
// tunnel as the list names them; node.go and nodestatus.go for what the Node says.
package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"k8s.io/client-go/rest"

	"brink/agent/join"
	"brink/agent/kubelet"
	"brink/agent/ledger"
	"brink/agent/proxy"
	"brink/internal/host"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/wire/nodekey"
	"brink/network"
	"brink/network/nodeaddr"
	"brink/runtime/images"
)

// KubeletPort is the port on which the kubelet listens unless its flags name another.
const KubeletPort = 10250

// Names of the node's components in `brink status` and the log. Join, Address and
// TunnelClient exist only on a machine of its own. Beside a server, the server's component
// Address does the work of the agent's; no other name is used by both.
const (
	Join         = "join"
	Address      = nodeaddr.ComponentName
	TunnelClient = "tunnel-client"
	Cgroups      = "cgroups"
	Containerd   = "containerd"
	Images       = "images"
	Kubelet      = "kubelet"
	Network      = "network"
	ServiceProxy = "service-proxy"
	Node         = "node"
)

// Config is what the node is told. Access is that of a node beside a server, Join
// that of one on a machine of its own.
type Config struct {
	Layout   layout.Layout
	NodeName string
	// Addresses has the node's addresses. Beside a server they have been found already,
	// and the server runs the Watcher. On a machine of its own the agent finds them once
	// the machine has joined, and runs the Watcher.
	Addresses   *nodeaddr.Watcher
	ExternalIPs []netip.Addr // by which it is reached from outside
	Labels      []string     // key=value
	Taints      []string     // key=value:Effect

	Access *Access
	Join   *join.Join

	// KubeletNeeds are further components for which the kubelet waits. The kubelet and
	// the controllers share the process's table of volume plugins, and upstream's CSI
	// plugin remembers the node of whoever set it up last. The controllers name no node:
	// if they came last, the kubelet would end the process.
	KubeletNeeds []string

	RegistriesFile         string
	Host                   host.Facts
	KubeletArgs, ProxyArgs []string
	Debug                  bool

	groups podGroups // New fills it in
}

// Access is how a node reaches its cluster, and what it has to know of it.
type Access struct {
	// API reaches the API server as a user in groups; on a machine of its own the
	// node acts for all of its parts.
	API func(user string, groups ...string) *rest.Config
	// Reconnect gives up connections that may be dead; nil when there are none.
	Reconnect func()
	// ServingCert and ServingKey are the files of the kubelet's serving certificate.
	// Without them it requests one from the cluster. ClientCA is the file by which it
	// verifies its callers.
	ServingCert, ServingKey, ClientCA string

	ClusterCIDRs  []netip.Prefix
	ServiceCIDRs  []netip.Prefix
	ClusterDNS    []netip.Addr
	ClusterDomain string
	Backend       network.Backend
	// Machine is what the cluster knows this machine by; empty beside a server.
	Machine nodekey.Public
}

// Agent is a configured node that has not been started.
type Agent struct {
	cfg     Config
	started time.Time
	pods    *ledger.Pods
	images  *images.Directory
	// ledgerLog is for what could not be recorded.
	ledgerLog *slog.Logger

	connected chan struct{} // closed when node is set
	node      *connected
}

// New checks all settings; nothing is started and nothing is written.
func New(cfg Config) (*Agent, error) {
	a := &Agent{cfg: cfg, started: time.Now(), pods: ledger.NewPods(cfg.Layout), ledgerLog: newLedgerLog(), connected: make(chan struct{})}
	a.images = a.newImages()
	if _, err := images.ReadRegistries(cfg.RegistriesFile); err != nil {
		return nil, err
	}
	var err error
	if a.cfg.groups, err = choosePodGroups(cfg); err != nil {
		return nil, err
	}
	if cfg.Access != nil {
		const online = true // the server is in this process
		return a, a.connect(*cfg.Access, online)
	}
	unknown := Access{ClientCA: cfg.Layout.ClientCA()} // the rest is known after joining
	if err := kubelet.CheckArgs(kubeletConfig(a.cfg, unknown)); err != nil {
		return nil, err
	}
	return a, proxy.CheckArgs(cfg.ProxyArgs)
}

// Components returns the node's parts in start order. A machine of its own joins while
// its containerd starts.
func (a *Agent) Components() []lifecycle.Component {
	list := []lifecycle.Component{
		{Name: Join, Needs: lifecycle.Nothing, Run: a.ifJoining(a.runJoin)},                                                         // makes this machine a node
		{Name: Address, Needs: []string{Join}, Run: a.ifJoining(a.runAddress)},                                                      // notices when the machine gets other addresses
		{Name: TunnelClient, Needs: []string{Join}, Run: a.ifJoining(a.whenConnected((*connected).runTunnels))},                     // lets servers reach the node
		{Name: Cgroups, Needs: lifecycle.Nothing, Run: a.runCgroups},                                                                // makes the root of pods' control groups
		{Name: Containerd, Run: a.runContainerd, StopTimeout: 20 * time.Second},                                                     // runs pods, by programs that it unpacks
		{Name: Images, Run: a.runImages},                                                                                            // brings the images of archives, while the rest goes on
		{Name: Kubelet, Needs: a.kubeletNeeds(), Run: a.whenConnected((*connected).runKubelet), StopTimeout: kubelet.StopTimeout},   // registers the node
		{Name: Network, Needs: a.networkNeeds(), Run: a.whenConnected((*connected).runNetwork)},                                     // needs the node's address range
		{Name: ServiceProxy, Needs: []string{Kubelet}, Run: a.whenConnected((*connected).runProxy), StopTimeout: proxy.StopTimeout}, // needs the node
		{Name: Node, Needs: []string{Network, ServiceProxy}, Run: a.whenConnected((*connected).runNode)},                            // ready when Kubernetes says so
	}
	return slices.DeleteFunc(list, func(c lifecycle.Component) bool { return c.Run == nil })
}

type runFunc = func(ctx context.Context, ready func()) error

// ifJoining returns run on a machine that joins a cluster. Beside a server it returns nil:
// the component does not exist there.
func (a *Agent) ifJoining(run runFunc) runFunc {
	if a.cfg.Join == nil {
		return nil
	}
	return run
}

// kubeletNeeds returns the components that the kubelet waits for. Join is not among them
// beside a server, where the node has access to its cluster from the start.
func (a *Agent) kubeletNeeds() []string {
	needs := append(slices.Clone(a.cfg.KubeletNeeds), Images)
	if a.cfg.Join != nil {
		needs = append(needs, Join)
	}
	return needs
}

// networkNeeds returns the components that the network waits for. Beside a server, the
// Node and with it the range of its pods are there when the kubelet is ready. A machine of
// its own may know its range without a server.
func (a *Agent) networkNeeds() []string {
	if a.cfg.Join != nil {
		return []string{Join, Containerd} // which unpacks nft
	}
	return []string{Kubelet}
}
