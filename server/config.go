package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"brink/internal/layout"
	"brink/network/nodeaddr"
)

// Config is what a user sets.
type Config struct {
	Layout   layout.Layout
	NodeName string
	HasAgent bool // an agent runs beside this server
	// Addresses are the machine's, found or given: at least one. The server runs the
	// Watcher. Certificates are made for the first of them.
	Addresses *nodeaddr.Watcher

	ExternalIPs []netip.Addr // of the node, by which it is reached from outside
	// AdvertiseAddress is the address by which agents, and pods on all nodes, reach the
	// API server: agents are told it, and it is the endpoint of the Service kubernetes.
	// Zero is the external address of the family of the node's first address, or else
	// that first address. Nodes at other sites cannot reach a private address.
	AdvertiseAddress netip.Addr

	BindAddress netip.Addr // of the HTTPS port
	Port        int        // HTTPS port
	TLSSANs     []string   // further names and addresses of the API server

	ClusterCIDRs  []netip.Prefix // one, or one a family
	ServiceCIDRs  []netip.Prefix // one, or one a family
	ClusterDNS    []netip.Addr   // what pods are told to ask
	ClusterDomain string
	// NetworkBackend is how pods of different nodes reach each other, in the words of the
	// network package. A server only passes it on to nodes.
	NetworkBackend string

	DatastoreEndpoint        string // empty is SQLite in the data directory
	DatastoreCAFile          string
	DatastoreCertFile        string
	DatastoreKeyFile         string
	DatastoreMaxConnections  int // to a PostgreSQL or MySQL; 0 is the default
	DatastoreSetAsideDamaged bool

	Kubeconfig     string      // where the admin kubeconfig is written
	KubeconfigMode fs.FileMode // its permission

	APIServerArgs, ControllerArgs, SchedulerArgs []string
	Debug                                        bool
}

// Validate returns everything that is wrong with c, joined. Errors name the
// flags from which the values come.
func (c Config) Validate() error {
	var errs []error
	ips := c.nodeIPs()
	if len(ips) == 0 {
		errs = append(errs, errors.New("no address: give --node-ip"))
	}
	if c.Port < 1 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("--https-listen-port=%d: must be from 1 to 65535", c.Port))
	}
	errs = append(errs, checkCIDRs("--cluster-cidr", c.ClusterCIDRs), checkCIDRs("--service-cidr", c.ServiceCIDRs))
	for _, pods := range c.ClusterCIDRs {
		for _, services := range c.ServiceCIDRs {
			if pods.Overlaps(services) {
				errs = append(errs, fmt.Errorf("--service-cidr=%s: overlaps --cluster-cidr=%s", services, pods))
			}
		}
	}
	if serviceIPs, err := firstAddresses(c.ServiceCIDRs); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, c.pki(serviceIPs).Validate())
	}
	if a := c.AdvertiseAddress; a.IsValid() && len(c.ServiceCIDRs) > 0 && a.Is4() != c.ServiceCIDRs[0].Addr().Is4() {
		errs = append(errs, fmt.Errorf("--advertise-address=%s: must be of the same family as the first --service-cidr, %s", a, c.ServiceCIDRs[0]))
	}
	if len(ips) > 0 && len(c.ServiceCIDRs) > 0 && ips[0].Is4() != c.ServiceCIDRs[0].Addr().Is4() {
		errs = append(errs, fmt.Errorf("--node-ip=%s: must be of the same family as the first --service-cidr, %s", ips[0], c.ServiceCIDRs[0]))
	}
	for _, ip := range ips {
		if err := nodeaddr.Check(ip, slices.Concat(c.ClusterCIDRs, c.ServiceCIDRs)); err != nil && c.HasAgent {
			errs = append(errs, fmt.Errorf("this machine cannot be a node with the address %s: %w: give another --node-ip, or other ranges with --cluster-cidr and --service-cidr", ip, err))
		}
	}
	return errors.Join(errs...)
}

// advertised returns AdvertiseAddress or its default.
func (c Config) advertised() netip.Addr {
	if c.AdvertiseAddress.IsValid() {
		return c.AdvertiseAddress
	}
	first := c.nodeIPs()[0]
	for _, a := range c.ExternalIPs {
		if a.Is4() == first.Is4() {
			return a
		}
	}
	return first
}

// nodeIPs are the addresses of the node at the start. They stay those of the server
// until its process ends: see watchAddresses.
func (c Config) nodeIPs() []netip.Addr {
	if c.Addresses == nil {
		return nil
	}
	return c.Addresses.FirstIPs()
}

// outerIPs returns the addresses by which the server is reached from outside, beside the
// node's own.
func (c Config) outerIPs() []netip.Addr {
	outer := slices.Clone(c.ExternalIPs)
	if a := c.AdvertiseAddress; a.IsValid() && !slices.Contains(slices.Concat(outer, c.nodeIPs()), a) {
		outer = append(outer, a)
	}
	return outer
}

// extraSANs returns the further names of the API server, and the addresses by which it is
// reached from outside.
func (c Config) extraSANs() []string {
	sans := slices.Clone(c.TLSSANs)
	for _, a := range c.outerIPs() {
		sans = append(sans, a.String())
	}
	return sans
}

// ownNode returns the name of the node in this process, empty without one.
func (c Config) ownNode() string {
	if c.HasAgent {
		return c.NodeName
	}
	return ""
}

// local returns where this machine reaches the API server.
func (c Config) local() netip.AddrPort {
	ip := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if b := c.BindAddress; b.IsValid() && !b.IsUnspecified() {
		ip = b
	}
	return netip.AddrPortFrom(ip, uint16(c.Port))
}

// checkCIDRs requires one prefix, or one of each family.
func checkCIDRs(flag string, prefixes []netip.Prefix) error {
	switch {
	case len(prefixes) == 0:
		return fmt.Errorf("%s: must not be empty", flag)
	case len(prefixes) > 2:
		return fmt.Errorf("%s: %d ranges given, at most one IPv4 and one IPv6 are possible", flag, len(prefixes))
	case len(prefixes) == 2 && prefixes[0].Addr().Is4() == prefixes[1].Addr().Is4():
		return fmt.Errorf("%s: two ranges must be one IPv4 and one IPv6", flag)
	}
	for _, p := range prefixes {
		if p != p.Masked() {
			return fmt.Errorf("%s=%s: has host bits set, did you mean %s?", flag, p, p.Masked())
		}
	}
	return nil
}

// firstAddresses returns the address of the Service kubernetes in each range.
func firstAddresses(ranges []netip.Prefix) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, p := range ranges {
		first := p.Masked().Addr().Next()
		if !p.Contains(first) {
			return nil, fmt.Errorf("--service-cidr=%s: too small", p)
		}
		out = append(out, first)
	}
	return out, nil
}
