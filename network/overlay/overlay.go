// Package overlay carries packets between the pods of different nodes, by VXLAN or by
// direct routes. It knows peers, which are other nodes, prefixes and links, not
// Kubernetes objects.
//
// It owns the link brink-vxlan with all on it, and the routes of protocol 98 to peers.
// A peer is one route for each address family. With VXLAN it is also one permanent
// neighbour for each family, which gives the MAC address of the next hop, and one entry
// of the device's forwarding database (FDB), which gives the underlay address of the
// node behind that MAC address.
//
// Decisions:
//   - The device learns nothing and floods nothing, so nothing is sent that these
//     entries do not ask for. flannel describes the two other designs (answering the
//     kernel's questions for unknown addresses, and one multicast group), which cost a
//     process in the path of first packets and a multicast network.
//   - One device serves both families: VXLAN carries Ethernet. Its tunnel goes by
//     the family of the first underlay address.
//   - A node's end of the tunnel, its VTEP (VXLAN tunnel endpoint), has the first
//     address of each of its pod prefixes, 10.42.1.0 and fd42:0:0:1::, as a single
//     address, and a MAC address
//     that follows from the prefix: peers know both without an announcement. The host's
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
//   - On the device rp_filter is made loose where it is strict: while backends are
//     changed node by node, a packet may come by the tunnel and its answer leave by a
//     direct route.
//   - Trouble with a peer is a warning and never an error: pods on this node work.
//   - Until the peers are known, what the last run left stays: a restart must not
//     cut off pods.
//   - Notifications of links, addresses, routes and neighbours are compared with
//     what is wanted as they come. Only one that contradicts it makes the next
//     Reconcile ask the kernel for everything, which with a thousand peers is
//     thousands of entries.
//
// Read in this order: overlay.go, backend.go, kernel.go, reconcile.go, underlay.go, planner.go,
// plan.go, events.go, prober.go.
package overlay

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// What the VXLAN device is by default. Port and identifier are those of Linux and
// flannel rather than RFC 7348's 4789, which virtual switches of data centres use
// and sometimes filter.
const (
	DefaultDevice = "brink-vxlan"
	DefaultPort   = 8472
	DefaultVNI    = 1
)

// DefaultLinger is how long the device stays when no peer is reached by it any more.
// Peers that do not know of a direct route yet go on sending by the tunnel. They hear of it
// within seconds, and a server that is away may take as long to be back.
const DefaultLinger = 30 * time.Second

// Config is a node's part of the overlay.
type Config struct {
	// ClusterCIDRs are the prefixes of all nodes' pods, NodeCIDRs this node's share of
	// them: at most one of each address family.
	ClusterCIDRs, NodeCIDRs []netip.Prefix
	// Backend is how pods reach those of other nodes.
	Backend Backend
	// Underlay are this node's addresses for other nodes at the start, at most one of
	// each family, the preferred one first: the tunnel goes by it. Not needed for None.
	Underlay []netip.Addr
	// PodMTU is the MTU of pods' links in bytes; zero is what fits through the links
	// to other nodes.
	PodMTU int
	// Device is the VXLAN device's name, Port its UDP port, VNI its network identifier.
	// Port and identifier are the same on all nodes.
	Device    string
	Port, VNI int
	// Linger is how long the device outlives the last peer that is reached by it.
	Linger time.Duration
}

// Validate returns everything that is wrong with c, joined.
func (c Config) Validate() error {
	var errs []error
	if c.PodMTU != 0 && (c.PodMTU < leastIPv6 || c.PodMTU > 65535) {
		errs = append(errs, fmt.Errorf("MTU %d is not between %d and 65535", c.PodMTU, leastIPv6))
	}
	if len(c.Device) > 15 {
		errs = append(errs, fmt.Errorf("VXLAN device name %q is longer than the 15 bytes the kernel allows", c.Device))
	}
	if c.Backend == None {
		return errors.Join(errs...)
	}
	_, err := ParseBackend(string(c.Backend))
	errs = append(errs, err, validUnderlay(c.Underlay))
	if c.Port < 1 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("VXLAN port %d is not between 1 and 65535", c.Port))
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

// Desired holds what the overlay is to reach. Any goroutine may change it at any time.
type Desired struct {
	mu    sync.Mutex
	state DesiredState
}

// DesiredState is one state of Desired. Its slices do not change.
type DesiredState struct {
	Peers      []Peer       // in order of their names
	PeersKnown bool         // SetPeers was called
	Underlay   []netip.Addr // this node's own addresses
	generation int          // raised with each change
}

// NewDesired returns what is desired at a start: the addresses of cfg, and no peers yet.
func NewDesired(cfg Config) *Desired {
	return &Desired{state: DesiredState{Underlay: cfg.Underlay, generation: 1}}
}

// SetPeers replaces the list of other nodes, and reports whether that was a change.
func (d *Desired) SetPeers(peers []Peer) bool {
	peers = slices.Clone(peers)
	slices.SortStableFunc(peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state.PeersKnown && slices.EqualFunc(peers, d.state.Peers, Peer.equal) {
		return false
	}
	d.state.Peers, d.state.PeersKnown = peers, true
	d.state.generation++
	return true
}

// SetUnderlay replaces the addresses by which other nodes reach this one, and reports
// whether that was a change.
func (d *Desired) SetUnderlay(addrs []netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Equal(addrs, d.state.Underlay) {
		return false
	}
	d.state.Underlay = slices.Clone(addrs)
	d.state.generation++
	return true
}

// Current returns the present state.
func (d *Desired) Current() DesiredState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Open returns the overlay of the network namespace of the calling thread. Its methods
// have to be called there too, by one goroutine at a time. It calls wake when Reconcile
// has to be called again. What keeps failing is tried again at each call, so log should
// leave out lines that repeat.
func Open(cfg Config, desired *Desired, wake func(), log *slog.Logger) (*Overlay, error) {
	stack, err := openNetstack(log)
	if err != nil {
		return nil, err
	}
	o := newOverlay(cfg, stack, desired, wake, log)
	o.close = stack.close
	return o, nil
}

// Close ends what runs in the background. What was made in the kernel stays.
func (o *Overlay) Close() {
	o.probe.stop()
	o.close()
}

// Remove deletes the device of this name and the routes to peers, as the backend None
// does with leftovers.
func Remove(device string, log *slog.Logger) error {
	cfg := Config{Backend: None, Device: device}
	o, err := Open(cfg, NewDesired(cfg), func() {}, log)
	if err != nil {
		return err
	}
	defer o.Close()
	_, err = o.reconcileAll(o.desired.Current())
	return err
}

// PodMTU is the MTU of pods' links in bytes, as far as known. Zero leaves it to the
// kernel.
func (o *Overlay) PodMTU() int { return o.podMTU }

// Destinations are the underlay addresses that the kernel's device sends to.
func (o *Overlay) Destinations() ([]netip.Addr, error) {
	has, err := o.kernel.inspect(o.cfg.Device, nil)
	var out []netip.Addr
	for entry := range has.fdb {
		out = append(out, entry.dst)
	}
	return out, err
}
