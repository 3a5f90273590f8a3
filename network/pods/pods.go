// Package pods attaches a node's pods to the network. It keeps the CNI configuration by
// which the container runtime does that, the bridge that pods are on, the rules of their
// host ports, and the routes by which the host itself reaches Services.
//
// Each pod has a link with two ends: one in the pod, the other on the bridge. A lease is
// the file by which the plugin host-local remembers which pod has an address. A host port
// is a port of the node that leads to one of a pod.
//
// It owns the file 10-brink.conflist, the address leases below StateDir, the bridge
// (made by the CNI bridge plugin at the first pod, repaired here), and the routes of
// protocol 98 to Services. It restores rules in the portmap plugin's tables, and
// removes those of its own pods.
//
// Decisions:
//   - Pods attach through the standard plugins bridge, host-local and portmap. What
//     they made and somebody deleted is made again as they make it, so that they find
//     and remove it when the pod goes.
//   - The CNI bridge plugin's own masquerading is off. It adds rules for every
//     pod; brink has one rule for the whole cluster (see package network).
//   - rp_filter is left as it is: pods answer on the link they are routed by, so that
//     even strict mode drops nothing.
//
// Read in this order: pods.go, cni.go, bridge.go, services.go, hostports.go.
package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"

	"brink/network/iprange"
)

// DefaultBridge is the bridge to which pods attach.
const DefaultBridge = "brink0"

// DefaultCacheDir is where the CNI library of the container runtime keeps its
// results, for which it has no option.
const DefaultCacheDir = "/var/lib/cni"

// Config says how pods are attached.
type Config struct {
	// ClusterCIDRs are the prefixes of all nodes' pods, NodeCIDRs this node's share of
	// them, ServiceCIDRs those of Services: at most one of each family. The first
	// address of a share is the bridge's.
	ClusterCIDRs, NodeCIDRs, ServiceCIDRs []netip.Prefix
	// ConfDir is where the CNI configuration is written, StateDir where the
	// host-local plugin keeps its leases. Both are made.
	ConfDir, StateDir string
	// CacheDir is where the CNI library keeps results, below "results". It is only
	// read.
	CacheDir string
	// Bridge is the bridge's name.
	Bridge string
}

// Validate returns everything that is wrong with c, joined.
func (c Config) Validate() error {
	errs := []error{iprange.OnePerFamily("node CIDR", c.NodeCIDRs), iprange.OnePerFamily("service CIDR", c.ServiceCIDRs)}
	if len(c.NodeCIDRs) == 0 {
		errs = append(errs, errors.New("the node has no pod addresses"))
	}
	for _, node := range c.NodeCIDRs {
		if !iprange.Within(node, c.ClusterCIDRs) {
			errs = append(errs, fmt.Errorf("node CIDR %s is in none of the cluster's %v", node, c.ClusterCIDRs))
		}
	}
	for _, dir := range []string{c.ConfDir, c.StateDir} {
		if !filepath.IsAbs(dir) {
			errs = append(errs, fmt.Errorf("CNI directory %q is not absolute", dir))
		}
	}
	if len(c.Bridge) > 15 {
		errs = append(errs, fmt.Errorf("bridge name %q is longer than the 15 bytes the kernel allows", c.Bridge))
	}
	return errors.Join(errs...)
}

// Gateways are the bridge's addresses, the first one of each of the node's prefixes.
func Gateways(nodeCIDRs []netip.Prefix) []netip.Addr {
	var out []netip.Addr
	for _, p := range nodeCIDRs {
		out = append(out, p.Addr().Next())
	}
	return out
}

// Pods reconciles the bridge, the host ports and the routes to Services.
type Pods struct {
	// HostPorts are the rules of pods' host ports.
	HostPorts HostPorts

	cfg              Config
	log              *slog.Logger
	mtu              int              // of pods' links
	bridgeMAC        net.HardwareAddr // of the bridge at the last check
	hadAddresses     bool             // the bridge had all of its addresses once
	oldRoutesRemoved bool             // of Services
}

// Open returns the pods of the network namespace of the calling thread. Its methods have
// to be called there too, by one goroutine at a time. It calls wake when they have to be
// called again.
func Open(ctx context.Context, cfg Config, wake func(), log *slog.Logger) (*Pods, error) {
	if err := recordForeignHostPorts(ctx, cfg); err != nil {
		return nil, err
	}
	return &Pods{HostPorts: HostPorts{cfg: cfg, wake: wake, log: log}, cfg: cfg, log: log}, nil
}

// Reconcile brings the bridge and the routes to Services in line. The MTU in bytes is
// that of links of pods that come from now on; zero leaves it to the kernel.
func (p *Pods) Reconcile(mtu int) error {
	p.mtu = mtu
	return errors.Join(p.reconcileBridge(), p.reconcileServiceRoutes())
}

// WriteConfig writes the CNI configuration unless it is there already. By its presence
// the container runtime concludes that the network works.
func (p *Pods) WriteConfig() error { return writeConflist(p.cfg, p.mtu) }
