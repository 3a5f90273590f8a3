// Package network makes a node's pod network work in the kernel: the CNI
// configuration by which pods attach, the kernel settings that routing pods
// needs, brink's own nftables rules, and the ways to the pods of other nodes. It
// knows peers, prefixes, links and rules, not Kubernetes objects; the agent
// translates.
//
// It owns the file 10-brink.conflist, the address leases below CNIStateDir, the
// bridge (made by the CNI bridge plugin at the first pod, repaired here), the
// nftables table "inet brink", the link brink-vxlan with all on it, and the routes
// of protocol 98: to peers and, over the bridge, to Services. It reads and writes nobody else's table.
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
//   - The CNI bridge plugin's own masquerading is off. It adds rules for every
//     pod; ours is one rule for the whole cluster.
//   - There is no chain that accepts forwarded pod traffic. In nftables an accept
//     ends only the base chain it stands in: a drop in any other base chain of
//     the hook, such as a FORWARD policy of DROP set by Docker, ufw or firewalld,
//     still wins, and where nobody drops there is nothing to accept. A host
//     firewall has to be told to let the cluster's addresses through; one with
//     such a policy is named in the log when it is first seen, unless it is made of
//     legacy iptables rules, which nftables does not show.
//   - Changes by others are noticed by the ruleset's generation number, which
//     the kernel raises at each nftables commit: asking for it is one netlink
//     round trip of microseconds, so it is asked often, and nft (milliseconds of
//     CPU) is started only when the number moved. Of the nftables notification
//     group, which sends every element of every service change, a filter in the
//     kernel lets the end of a transaction through and nothing else; then it is
//     asked whether the tables are the ones of before, which each "flush ruleset"
//     of a firewall's start or reload makes others.
//   - Links and addresses have notification groups with little in them, and wake
//     the loop: a bridge that somebody removed cuts off every pod until it is back.
//   - rp_filter is left as it is where pods answer on the link they are routed
//     by, so that even strict mode drops nothing. On the VXLAN device it is made
//     loose where it is strict: while backends are changed node by node, a packet
//     may come by the tunnel and its answer leave by a direct route.
//
// Peers, which are other nodes, are reached by VXLAN or by direct routes. The
// decisions there:
//   - A peer is one route and, with VXLAN, one permanent neighbour (each for every
//     family) and one FDB entry. The device learns nothing and floods nothing, so
//     nothing is sent that these entries do not ask for. flannel describes the two
//     other designs (answering the kernel's questions for unknown addresses, and
//     one multicast group), which cost a process in the path of first packets and
//     a multicast network.
//   - One device serves both families: VXLAN carries Ethernet. Its tunnel goes by
//     the family of the first underlay address.
//   - A node's end of the tunnel has the first address of each of its pod
//     prefixes, 10.42.1.0 and fd42:0:0:1::, as a single address, and a MAC address
//     that follows from the prefix: peers know both without being told. The host's
//     own packets to pods elsewhere come from there, so answers find back. Routes
//     lead to it in IPv4; in IPv6 to a link-local address (see vtepHop). In IPv6
//     it is the subnet-router anycast address of the bridge, too; as seen on Linux
//     6.18, the kernel serves TCP, UDP and ICMP on it and picks it as source,
//     whichever of the two came first.
//   - The device exists while a peer is reached by it. A node that is alone opens
//     no UDP port and needs no VXLAN in its kernel; pods have its MTU from the
//     start, because theirs cannot change later.
//   - Two nodes use direct routes when both say so and VXLAN otherwise, so every
//     state between two backends of a cluster works (see between).
//   - Our routes carry a protocol number of their own. A route of somebody else to
//     a peer's pods is reported and stays.
//   - Trouble with a peer never fails the component: pods on this node work.
//   - A frame is taken from the underlay addresses of peers only, which are in a set
//     of the table before their routes are made (see guardTunnel). Given up: marking
//     frames with a secret, which VXLAN has no field for.
//   - Until SetPeers was called, what the last run left stays: a restart must not
//     cut off pods.
//   - Notifications of links, addresses, routes and neighbours are compared with
//     what is wanted as they come. Only one that contradicts it makes the loop
//     look at peers, so that a look, which asks for everything, need not be done
//     at each tick: with a thousand peers it reads thousands of entries.
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"brink/internal/lifecycle"
)

const componentName = "network"

// DefaultCheckEvery is how often the component compares the kernel with what it
// wants, apart from the events that wake it. A look that finds nothing changed
// reads a few small files and asks the kernel a few times, without starting a
// process.
const DefaultCheckEvery = 10 * time.Second

// DefaultBridge is the bridge to which pods attach.
const DefaultBridge = "brink0"

// What the VXLAN device is by default. Port and identifier are those of Linux and
// flannel rather than RFC 7348's 4789, which virtual switches of data centres use
// and sometimes filter.
const (
	DefaultVXLANDevice = "brink-vxlan"
	DefaultVXLANPort   = 8472
	DefaultVNI         = 1
)

// DefaultCNICacheDir is where the CNI library of the container runtime keeps its
// results, for which it has no option.
const DefaultCNICacheDir = "/var/lib/cni"

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
	// CNICacheDir is where the CNI library keeps results, below "results"; empty
	// is DefaultCNICacheDir. It is only read.
	CNICacheDir string
	// MTU is that of pod interfaces in bytes; zero is what fits through the links
	// to other nodes or, with the backend none, the kernel's 1500.
	MTU int
	// Bridge is the bridge's name; empty is DefaultBridge.
	Bridge string
	// Backend is how pods reach those of other nodes; empty is None.
	Backend Backend
	// Underlay are this node's addresses for other nodes, at most one of each
	// family, the preferred one first: the tunnel goes by it. Not needed for None.
	Underlay []netip.Addr
	// VXLANDevice is the VXLAN device's name, empty is DefaultVXLANDevice;
	// VXLANPort its UDP port, zero is DefaultVXLANPort; VNI its network
	// identifier, zero is DefaultVNI. Port and identifier are the same on all
	// nodes.
	VXLANDevice string
	VXLANPort   int
	VNI         int
	// CheckEvery is the time between two comparisons; zero is
	// DefaultCheckEvery.
	CheckEvery time.Duration
	// Changing is told which kernel setting of the machine, such as
	// net/ipv4/ip_forward, is about to get which value. An error keeps it as it is.
	// Those of our own links are not told, they go with these.
	Changing func(name, to string) error
}

func (c Config) withDefaults() Config {
	c.Bridge = cmp.Or(c.Bridge, DefaultBridge)
	c.CNICacheDir = cmp.Or(c.CNICacheDir, DefaultCNICacheDir)
	c.Backend = cmp.Or(c.Backend, None)
	c.VXLANDevice = cmp.Or(c.VXLANDevice, DefaultVXLANDevice)
	c.VXLANPort = cmp.Or(c.VXLANPort, DefaultVXLANPort)
	c.VNI = cmp.Or(c.VNI, DefaultVNI)
	c.CheckEvery = cmp.Or(c.CheckEvery, DefaultCheckEvery)
	return c
}

// Validate returns everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	if len(c.NodeCIDRs) == 0 {
		errs = append(errs, errors.New("the node has no pod addresses"))
	}
	errs = append(errs, onePerFamily("cluster CIDR", c.ClusterCIDRs), onePerFamily("node CIDR", c.NodeCIDRs), onePerFamily("service CIDR", c.ServiceCIDRs))
	for _, node := range c.NodeCIDRs {
		if !Within(node, c.ClusterCIDRs) {
			errs = append(errs, fmt.Errorf("node CIDR %s is in none of the cluster's %v", node, c.ClusterCIDRs))
		}
	}
	for _, dir := range []string{c.CNIConfDir, c.CNIStateDir} {
		if !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("CNI directory %q is not absolute", dir))
		}
	}
	// 1280 is the least an IPv6 link may have (RFC 8200).
	if c.MTU != 0 && (c.MTU < 1280 || c.MTU > 65535) {
		errs = append(errs, fmt.Errorf("MTU %d is not between 1280 and 65535", c.MTU))
	}
	for _, link := range []struct{ kind, name string }{{"bridge", c.Bridge}, {"VXLAN device", c.VXLANDevice}} {
		if len(link.name) > 15 {
			errs = append(errs, fmt.Errorf("%s name %q is longer than the 15 bytes the kernel allows", link.kind, link.name))
		}
	}
	return errors.Join(append(errs, c.validateBackend())...)
}

func (c Config) validateBackend() error {
	if c.Backend == None || c.Backend == "" {
		return nil
	}
	_, err := ParseBackend(string(c.Backend))
	errs := []error{err, validUnderlay(c.Underlay)}
	if c.VXLANPort < 1 || c.VXLANPort > 65535 {
		errs = append(errs, fmt.Errorf("VXLAN port %d is not between 1 and 65535", c.VXLANPort))
	}
	if c.VNI < 1 || c.VNI >= 1<<24 {
		errs = append(errs, fmt.Errorf("VXLAN network identifier %d is not between 1 and %d", c.VNI, 1<<24-1))
	}
	return errors.Join(errs...)
}

// validUnderlay wants one or two addresses that other nodes can send to.
func validUnderlay(addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return errors.New("the node has no address for other nodes")
	}
	for i, a := range addrs {
		switch {
		case !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast():
			return fmt.Errorf("the node's address %s cannot be reached from other nodes", a)
		case i > 0 && slices.ContainsFunc(addrs[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }):
			return fmt.Errorf("the node's addresses %v must be at most one of each family", addrs)
		}
	}
	return nil
}

func onePerFamily(what string, prefixes []netip.Prefix) error {
	seen := map[bool]netip.Prefix{}
	for _, p := range prefixes {
		if !p.IsValid() || p != p.Masked() {
			return fmt.Errorf("%s %s is not a network prefix", what, p)
		}
		if other, ok := seen[p.Addr().Is4()]; ok {
			return fmt.Errorf("%s %s and %s are of one address family", what, other, p)
		}
		seen[p.Addr().Is4()] = p
	}
	return nil
}

// Within tells that a prefix lies in one of wider.
func Within(p netip.Prefix, wider []netip.Prefix) bool {
	for _, w := range wider {
		if w.Contains(p.Addr()) && w.Bits() <= p.Bits() {
			return true
		}
	}
	return false
}

// has reports whether the cluster uses an address family.
func (c Config) has(f family) bool { return len(f.of(c.ClusterCIDRs)) > 0 }

// Network is a node's pod network.
type Network struct {
	cfg   Config
	peers *peerKeeper
	wake  chan struct{} // one signal waits while the loop is busy
}

// New returns a network that does nothing until its component runs.
func New(cfg Config) *Network {
	cfg = cfg.withDefaults()
	wake := make(chan struct{}, 1)
	return &Network{cfg: cfg, peers: newPeerKeeper(cfg, func() { signal(wake) }), wake: wake}
}

// SetPeers says which other nodes there are: all of them, each time, in any order.
// It may be called at any time; saying the same again costs nothing. The peers'
// slices must not change afterwards. Until the first call the ways to peers that an earlier run
// left in the kernel stay as they are.
func (n *Network) SetPeers(peers []Peer) {
	if n.peers.setPeers(peers) {
		signal(n.wake)
	}
}

// SetUnderlay says by which addresses other nodes reach this one from now on, at
// most one of each family, the preferred one first. Saying the same again costs
// nothing.
func (n *Network) SetUnderlay(addrs []netip.Addr) {
	if n.peers.setUnderlay(addrs) {
		signal(n.wake)
	}
}

// Warnings is nil while every peer can be reached as far as this node knows, and
// otherwise says what keeps which peers from it and what helps.
func (n *Network) Warnings() error { return n.peers.err() }

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
	if err := noteHostPorts(ctx, n.cfg); err != nil {
		return err
	}
	node, err := open(ctx, n.cfg, n.peers)
	if err != nil {
		return err
	}
	defer node.close()
	if err := watchKernel(ctx, n.peers.watch, n.peers.beUnsure, n.wake); err != nil {
		return err
	}
	rules := make(chan struct{}, 1)
	if err := WatchRules(ctx, func() { signal(rules) }); err != nil {
		slog.Warn("changes of nftables rules are noticed later", "component", componentName, "error", err)
	}
	if err := node.reconcile(ctx); err != nil {
		return err
	}
	ready()
	node.lookAround(ctx)
	node.keep(ctx, n.wake, rules)
	return nil
}
