// Package server is the control plane of a brink node: where state lives, who
// is trusted, the API server, the controllers and the scheduler. The list in
// Components reads as its architecture.
//
// A server knows nothing of the agent. It hands out client configurations that
// reach its API server in memory, and main gives those to the agent beside it.
package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"slices"

	"k8s.io/client-go/rest"

	"brink/datastore"
	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/wire/tunnelwire"
	"brink/network/nodeaddr"
	"brink/server/controlplane"
	"brink/server/noderecord"
	"brink/server/pki"
	"brink/server/token"
	"brink/server/tunnel"
)

// Config is what the server is told by its user.
type Config struct {
	Layout   layout.Layout
	NodeName string
	NodeIPs  []netip.Addr // at least one
	HasAgent bool         // an agent runs beside this server

	ExternalIPs []netip.Addr // of the node, by which it is reached from outside
	// AdvertiseAddress is what agents and pods on all nodes reach the API server by:
	// it is told to agents, and the Service kubernetes leads there. Zero is the
	// external address of the family of NodeIPs[0], else that one. Nodes at other
	// sites can do nothing with a private address.
	AdvertiseAddress netip.Addr

	BindAddress netip.Addr // of the HTTPS port
	Port        int        // HTTPS port
	TLSSANs     []string   // further names and addresses of the API server

	ClusterCIDRs  []netip.Prefix // one, or one a family
	ServiceCIDRs  []netip.Prefix // one, or one a family
	ClusterDNS    []netip.Addr   // what pods are told to ask
	ClusterDomain string
	// NetworkBackend is how the pods of different nodes reach each other, as the
	// network package spells it. A server only passes it on to nodes.
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
	if len(c.NodeIPs) == 0 {
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
	if len(c.NodeIPs) > 0 && len(c.ServiceCIDRs) > 0 && c.NodeIPs[0].Is4() != c.ServiceCIDRs[0].Addr().Is4() {
		errs = append(errs, fmt.Errorf("--node-ip=%s: must be of the same family as the first --service-cidr, %s", c.NodeIPs[0], c.ServiceCIDRs[0]))
	}
	for _, ip := range c.NodeIPs {
		if err := nodeaddr.Check(ip, slices.Concat(c.ClusterCIDRs, c.ServiceCIDRs)); err != nil && c.HasAgent {
			errs = append(errs, fmt.Errorf("this machine cannot be a node with the address %s: %w: give another --node-ip, or other ranges with --cluster-cidr and --service-cidr", ip, err))
		}
	}
	return errors.Join(errs...)
}

// advertised is what AdvertiseAddress means.
func (c Config) advertised() netip.Addr {
	if c.AdvertiseAddress.IsValid() {
		return c.AdvertiseAddress
	}
	for _, a := range c.ExternalIPs {
		if a.Is4() == c.NodeIPs[0].Is4() {
			return a
		}
	}
	return c.NodeIPs[0]
}

// outerIPs are those by which the server is reached from elsewhere, beside the
// node's own.
func (c Config) outerIPs() []netip.Addr {
	outer := slices.Clone(c.ExternalIPs)
	if a := c.AdvertiseAddress; a.IsValid() && !slices.Contains(slices.Concat(outer, c.NodeIPs), a) {
		outer = append(outer, a)
	}
	return outer
}

// extraSANs are the further names of the API server, and the addresses by which it
// is reached from elsewhere.
func (c Config) extraSANs() []string {
	sans := slices.Clone(c.TLSSANs)
	for _, a := range c.outerIPs() {
		sans = append(sans, a.String())
	}
	return sans
}

// pki is the part of c that certificates are made for.
func (c Config) pki(serviceIPs []netip.Addr) pki.Config {
	return pki.Config{
		Dir:           c.Layout.TLS(),
		ClusterDomain: c.ClusterDomain,
		NodeName:      c.NodeName,
		NodeIPs:       c.NodeIPs,
		ServiceIPs:    serviceIPs,
		ExtraSANs:     c.extraSANs(),
	}
}

// checkCIDRs wants one prefix, or one of each family.
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

// Server is a configured server that has not been started.
type Server struct {
	cfg         Config
	store       *datastore.Store
	tunnels     *tunnel.Server
	plane       *controlplane.ControlPlane
	tokenStatus *token.StatusHandler
	gate        *noderecord.Gate
}

// Check tries everything that New does, as far as that leaves no trace: the flags
// of the embedded components are parsed, the state on disk is not looked at.
func (c Config) Check() error {
	if err := c.Validate(); err != nil {
		return err
	}
	if err := c.datastore().Validate(); err != nil {
		return err
	}
	const nowhere = "unix:///nowhere"
	_, err := controlplane.New(c.controlPlane(nowhere, nowhere, c.tunnels(noderecord.New(""), nil)))
	return err
}

// New checks all settings and the state on disk; nothing runs yet. The caller
// holds the data directory's lock.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	store, err := datastore.New(cfg.datastore())
	if err != nil {
		return nil, err
	}
	gate := noderecord.New(cfg.ownNode())
	tunnels := cfg.tunnels(gate, store.Witness)
	s := &Server{cfg: cfg, store: store, tunnels: tunnels, tokenStatus: &token.StatusHandler{}, gate: gate}
	plane := cfg.controlPlane(store.DurableEndpoint(), store.VolatileEndpoint(), tunnels)
	plane.Public, plane.Gate = cfg.public(s.tokenStatus), s.gate
	s.plane, err = controlplane.New(plane)
	return s, err
}

// tunnels takes those of agents; the node in this process has none. Agents remember
// how far the cluster's state was, for a server whose disk is restored.
func (c Config) tunnels(gate *noderecord.Gate, witness func(node string, revision int64)) *tunnel.Server {
	return tunnel.New(tunnel.Config{
		OwnNode:      c.ownNode(),
		OwnIPs:       slices.Concat(c.NodeIPs, c.outerIPs()),
		OwnAPI:       c.local(),
		InNetwork:    nodeaddr.IsNeighbour,
		IsAgent:      gate.HasRecord,
		ClusterCIDRs: c.ClusterCIDRs,
		Witness:      witness,
	})
}

// local is where the API server is for this machine.
func (c Config) local() netip.AddrPort {
	ip := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if b := c.BindAddress; b.IsValid() && !b.IsUnspecified() {
		ip = b
	}
	return netip.AddrPortFrom(ip, uint16(c.Port))
}

func (c Config) datastore() datastore.Config {
	return datastore.Config{
		Dir:             c.Layout.DB(),
		SocketDir:       c.Layout.DatastoreDir(),
		Endpoint:        c.DatastoreEndpoint,
		CAFile:          c.DatastoreCAFile,
		CertFile:        c.DatastoreCertFile,
		KeyFile:         c.DatastoreKeyFile,
		SetAsideDamaged: c.DatastoreSetAsideDamaged,
		Cluster:         c.cluster,
		CeilingFile:     c.Layout.RevisionCeiling(),

		MaxOpenConnections: c.DatastoreMaxConnections,
		ServerCA:           pki.Dir(c.Layout.TLS()).ServerCA(),
		NodeName:           c.NodeName,
	}
}

// cluster is the hash of the server CA, by which agents know their cluster; empty
// before there is one.
func (c Config) cluster() string {
	hash, err := token.CAHash(pki.Dir(c.Layout.TLS()).ServerCA())
	if err != nil {
		return ""
	}
	return hash
}

// controlPlane is c for a datastore at these etcd endpoints.
func (c Config) controlPlane(durable, volatile string, tunnels *tunnel.Server) controlplane.Config {
	return controlplane.Config{
		BindAddress:      c.BindAddress,
		Port:             c.Port,
		AdvertiseAddress: c.advertised(),
		OwnNode:          c.ownNode(),
		OwnIPs:           c.NodeIPs,
		OuterIPs:         c.outerIPs(),
		HolderOf:         tunnels.Holder,
		ClusterCIDRs:     c.ClusterCIDRs,
		ServiceCIDRs:     c.ServiceCIDRs,
		ClusterDomain:    c.ClusterDomain,
		DurableEndpoint:  durable,
		VolatileEndpoint: volatile,
		Etcd:             c.etcd(),
		Files:            files(pki.Dir(c.Layout.TLS())),
		VolumePlugins:    c.Layout.VolumePlugins(),
		APIServerArgs:    c.APIServerArgs,
		ControllerArgs:   c.ControllerArgs,
		SchedulerArgs:    c.SchedulerArgs,
		Debug:            c.Debug,
		Authenticated:    map[string]http.Handler{tunnelwire.Path: tunnels},
		Dialer:           tunnels,
	}
}

// etcd is nil unless the datastore endpoint is somebody else's etcd.
func (c Config) etcd() *controlplane.Etcd {
	if c.datastore().Served() {
		return nil
	}
	return &controlplane.Etcd{CAFile: c.DatastoreCAFile, CertFile: c.DatastoreCertFile, KeyFile: c.DatastoreKeyFile}
}

func files(dir pki.Dir) controlplane.Files {
	return controlplane.Files{
		ServerCA: dir.ServerCA(), ServerCAKey: dir.Key(pki.ServerCA),
		KubeletCA: dir.KubeletCA(), KubeletCAKey: dir.Key(pki.KubeletCA),
		ClientCA: dir.ClientCA(), ClientCAKey: dir.Key(pki.ClientCA),
		RequestHeaderCA: dir.RequestHeaderCA(),
		ServingCert:     dir.Cert(pki.ServingAPIServer), ServingKey: dir.Key(pki.ServingAPIServer),
		KubeletClientCert: dir.Cert(pki.ClientAPIServer), KubeletClientKey: dir.Key(pki.ClientAPIServer),
		ProxyClientCert: dir.Cert(pki.ClientAuthProxy), ProxyClientKey: dir.Key(pki.ClientAuthProxy),
		ServiceAccountKey: dir.ServiceKey(),
	}
}

// Components returns the server's parts in start order.
func (s *Server) Components() []lifecycle.Component {
	durable := s.store.Durable()
	durable.Needs = lifecycle.Nothing
	list := []lifecycle.Component{
		durable,             // state that matters; elsewhere it may be another cluster's
		s.rangesComponent(), // refuses flags that the cluster cannot follow
		{Name: "certificates", Run: s.runCertificates}, // everything below reads them
		s.store.Volatile(),    // leases and events, in memory
		s.tunnels.Component(), // what agents keep open to be reached by
	}
	list = append(list, lifecycle.Component{Name: "first-node", Run: s.runFirstNode}) // beside the API server
	list = append(list, s.plane.Components()...)
	return append(list,
		lifecycle.Component{Name: "cluster-setup", Run: s.runClusterSetup}, // objects every cluster has
		lifecycle.Component{Name: "join", Run: s.runJoin},                  // who may be a node
	)
}

// ClientConfig reaches the API server in memory, acting as the given identity.
func (s *Server) ClientConfig(user string, groups ...string) *rest.Config {
	return s.plane.ClientConfig(user, groups...)
}

// StoreHealth is nil while the datastore takes writes, else the reason.
func (s *Server) StoreHealth() error { return s.store.Health() }

// StoreWarning is nil, or what of the datastore needs somebody's attention while
// it takes writes.
func (s *Server) StoreWarning() error { return s.store.Warning() }

// runCertificates makes the certificates and the admin kubeconfig, and renews
// them for as long as the server runs. It starts after the datastore: a database
// elsewhere may belong to a cluster that has its own.
func (s *Server) runCertificates(ctx context.Context, ready func()) error {
	serviceIPs, err := firstAddresses(s.cfg.ServiceCIDRs)
	if err != nil {
		return err
	}
	tree, err := pki.Ensure(s.cfg.pki(serviceIPs))
	if err != nil {
		return err
	}
	if err := s.store.Claim(ctx); err != nil {
		return err
	}
	writeKubeconfig := func([]string) error {
		return tree.WriteAdminKubeconfig(s.cfg.Kubeconfig, s.localURL(), s.cfg.KubeconfigMode)
	}
	if err := writeKubeconfig(nil); err != nil {
		return err
	}
	return tree.Renewer(0, writeKubeconfig).Run(ctx, ready)
}

// localURL is how a kubectl on this machine reaches the API server.
func (s *Server) localURL() string { return "https://" + s.cfg.local().String() }

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
