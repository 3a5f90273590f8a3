// Package network makes a node's pod network work in the kernel: the links, routes,
// settings and firewall rules by which pods reach each other, Services and the outside.
// Package overlay leads to other nodes' pods, package pods attaches the pods of this
// node, and this package adds kernel settings and brink's own nftables rules. None of
// them reads Kubernetes objects: the agent turns those into peers, prefixes and links.
//
// The words:
//   - A pod is a group of containers that share one network namespace and its addresses.
//   - A Service is a lasting address that kube-proxy translates to that of some pod.
//   - A peer is another node of the cluster. The underlay is the network between nodes,
//     and a node's underlay address is where its peers send to.
//   - A frame is an Ethernet packet that VXLAN has wrapped in UDP.
//   - CNI, the Container Network Interface, is how a container runtime calls programs,
//     its plugins, to attach a pod to the network.
//
// It owns the nftables table "inet brink". In tables of others it changes nothing but the
// rules of host ports of its own pods (see package pods).
//
// Everything is desired state: the component compares it with what is there,
// changes what differs, and keeps comparing, so that what someone else deletes
// comes back. When it stops it leaves everything in place, for pods outlive it;
// Remove is for uninstalling.
//
// Decisions:
//   - One table of family inet instead of one for each of ip and ip6: one code
//     path and one transaction. Kernels old enough to lack NAT there (before
//     5.2) lack what kube-proxy's nftables mode needs too.
//   - There is no chain that accepts forwarded pod traffic. In nftables an accept
//     ends only the base chain it stands in: a drop in any other base chain of
//     the hook, such as a FORWARD policy of DROP set by Docker, ufw or firewalld,
//     still wins, and where nobody drops there is nothing to accept. A host
//     firewall has to be told to let the cluster's addresses through; one with
//     such a policy is named in the log when it is first seen, unless it is made of
//     legacy iptables rules, which nftables does not show.
//   - Links and addresses have notification groups with little in them, and wake
//     the loop: a bridge that somebody removed cuts off every pod until it is back.
//   - A frame of the tunnel is taken from the underlay addresses of peers only, which
//     are in a set of the table before their routes are made (see guardTunnel). Frames
//     are not marked with a secret, because VXLAN has no field for one.
//   - Trouble with a peer never fails the component: pods on this node work.
//
// Read in this order: network.go, reconcile.go, rules.go, guard.go, then the packages
// pods and overlay, each from the file of its name; nftables, rtnl, sysctl and iprange
// are what these share.
package network

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"brink/internal/lifecycle"
	"brink/network/iprange"
	"brink/network/nftables"
	"brink/network/overlay"
	"brink/network/pods"
)

const componentName = "network"

// checkEvery is how often the component compares the kernel with what it
// wants, apart from the events that wake it. When nothing has changed, that costs
// a few small files and a few questions to the kernel, and starts no process.
const checkEvery = 10 * time.Second

// DefaultVXLANPort is the UDP port by which nodes exchange pods' packets.
const DefaultVXLANPort = overlay.DefaultPort

// The ranges of pods and Services when the user chooses none.
const (
	DefaultClusterCIDR = "10.42.0.0/16"
	DefaultServiceCIDR = "10.43.0.0/16"
)

// Backend is how pods' packets travel between nodes.
type Backend = overlay.Backend

// The backends.
const (
	VXLAN  = overlay.VXLAN
	HostGW = overlay.HostGW
	None   = overlay.None
)

// ParseBackend reads a backend's name as users write it.
func ParseBackend(name string) (Backend, error) { return overlay.ParseBackend(name) }

// Peer is another node of the cluster.
type Peer = overlay.Peer

// Config is a node's part of the pod network.
type Config struct {
	// ClusterCIDRs are the prefixes of all nodes' pods: at most one of each
	// address family.
	ClusterCIDRs []netip.Prefix
	// NodeCIDRs are this node's share of them. Their first address is the
	// bridge's.
	NodeCIDRs []netip.Prefix
	// ServiceCIDRs are the prefixes of Services, at most one of each family.
	ServiceCIDRs []netip.Prefix
	// CNIConfDir is where the CNI configuration is written, CNIStateDir where
	// the host-local plugin keeps its leases. Both are made.
	CNIConfDir, CNIStateDir string
	// Backend is how pods reach those of other nodes; empty is None.
	Backend Backend
	// Underlay are this node's addresses for other nodes, at most one of each
	// family, the preferred one first: the tunnel goes by it. Not needed for None.
	Underlay []netip.Addr
	// Changing is called before a kernel setting of the machine, such as
	// net/ipv4/ip_forward, gets another value. An error keeps it as it is. Settings of
	// brink's own links are left out: they go with the links.
	Changing func(name, to string) error

	// Only tests set these. Zero is the default of this package, of pods or overlay.
	mtu                 int
	bridge, cniCacheDir string
	checkEvery, linger  time.Duration
}

// Validate returns everything that is wrong with c, joined.
func (c Config) Validate() error {
	return errors.Join(iprange.OnePerFamily("cluster CIDR", c.ClusterCIDRs), c.pods().Validate(), c.overlay().Validate())
}

func (c Config) backend() Backend { return cmp.Or(c.Backend, None) }

func (c Config) pods() pods.Config {
	return pods.Config{
		ClusterCIDRs: c.ClusterCIDRs, NodeCIDRs: c.NodeCIDRs, ServiceCIDRs: c.ServiceCIDRs,
		ConfDir: c.CNIConfDir, StateDir: c.CNIStateDir,
		CacheDir: cmp.Or(c.cniCacheDir, pods.DefaultCacheDir), Bridge: c.bridgeName(),
	}
}

func (c Config) bridgeName() string { return cmp.Or(c.bridge, pods.DefaultBridge) }

func (c Config) overlay() overlay.Config {
	return overlay.Config{
		ClusterCIDRs: c.ClusterCIDRs, NodeCIDRs: c.NodeCIDRs, Backend: c.backend(), Underlay: c.Underlay, PodMTU: c.mtu,
		Device: overlay.DefaultDevice, Port: DefaultVXLANPort, VNI: overlay.DefaultVNI, Linger: cmp.Or(c.linger, overlay.DefaultLinger),
	}
}

// has reports whether the cluster uses an address family.
func (c Config) has(f family) bool { return len(f.of(c.ClusterCIDRs)) > 0 }

// Network is a node's pod network.
type Network struct {
	cfg     Config
	desired *overlay.Desired
	wake    chan struct{} // one signal waits while the loop is busy

	mu       sync.Mutex
	warnings []string
}

// New returns a network that does nothing until its component runs.
func New(cfg Config) *Network {
	return &Network{cfg: cfg, desired: overlay.NewDesired(cfg.overlay()), wake: make(chan struct{}, 1)}
}

// SetPeers replaces the list of all other nodes, which may be in any order. It may be
// called at any time, and costs nothing when the list is the same. The peers' slices must
// not change afterwards. Until the first call, what an earlier run left in the kernel for
// peers stays as it is.
func (n *Network) SetPeers(peers []Peer) {
	if n.desired.SetPeers(peers) {
		signal(n.wake)
	}
}

// SetUnderlay replaces the addresses by which other nodes reach this one: at most one of
// each family, the preferred one first. It costs nothing when they are the same.
func (n *Network) SetUnderlay(addrs []netip.Addr) {
	if n.desired.SetUnderlay(addrs) {
		signal(n.wake)
	}
}

// Warnings returns nil while every peer can be reached as far as this node knows.
// Otherwise the error says what keeps which peers from it and what helps.
func (n *Network) Warnings() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for _, w := range n.warnings {
		errs = append(errs, errors.New(w))
	}
	return errors.Join(errs...)
}

// setWarnings replaces the warnings and returns the old ones.
func (n *Network) setWarnings(warnings []string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.warnings
	n.warnings = warnings
	return before
}

// Component returns the component "network". It is ready when pods can be
// attached and reach the world. It fails only before that; later trouble is
// logged and tried again, and trouble with peers is for Warnings.
func (n *Network) Component() lifecycle.Component {
	return lifecycle.Component{Name: componentName, Run: n.run}
}

func (n *Network) run(ctx context.Context, ready func()) error {
	if err := n.cfg.Validate(); err != nil {
		return err
	}
	r, err := open(ctx, n)
	if err != nil {
		return err
	}
	defer r.close()
	if err := r.overlay.Watch(ctx); err != nil {
		return err
	}
	rules := make(chan struct{}, 1)
	if err := nftables.Watch(ctx, func() { signal(rules) }); err != nil {
		r.log.Warn("changes of nftables rules are noticed later", "error", err)
	}
	if err := r.reconcile(ctx); err != nil {
		return err
	}
	ready()
	r.reconcileRest(ctx)
	r.loop(ctx, n.wake, rules)
	return nil
}

// signal makes sure that the receiver runs once more.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
