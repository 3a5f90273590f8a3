// Package server runs the control plane of a cluster in this process: the datastore, the
// certificates, the API server, the controllers, the scheduler, the tunnels of agents and
// the decision who may join. The list in Components reads as its architecture.
//
// A server knows nothing of the agent. It hands out client configurations that reach its
// API server in memory; whoever composes the process gives them to the agent beside it.
//
// Read in this order: components.go, the start list; config.go, what a user may set, and
// parts.go, what follows from it for each part; pki, then controlplane and the inmemory
// transport to it; token, join and noderecord, in the order in which a machine meets
// them; tunnel, by which the API server reaches the nodes.
package server

import (
	"k8s.io/client-go/rest"

	"brink/datastore"
	"brink/server/controlplane"
	"brink/server/noderecord"
	"brink/server/token"
	"brink/server/tunnel"
)

// Server is a configured server that has not been started.
type Server struct {
	cfg         Config
	store       *datastore.Store
	tunnels     *tunnel.Server
	plane       *controlplane.ControlPlane
	tokenStatus *token.StatusHandler
	gate        *noderecord.Gate
}

// Check tries what New does as far as that leaves no trace on disk: it parses the flags
// of the embedded components and does not look at the state on disk. It sets the
// process's feature gates, as New does.
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

// ClientConfig reaches the API server in memory, acting as the given identity.
func (s *Server) ClientConfig(user string, groups ...string) *rest.Config {
	return s.plane.ClientConfig(user, groups...)
}

// StoreHealth returns nil while the datastore takes writes, else the reason why it does not.
func (s *Server) StoreHealth() error { return s.store.Health() }

// StoreWarning returns what in the datastore needs somebody's attention although it takes
// writes, nil when nothing does.
func (s *Server) StoreWarning() error { return s.store.Warning() }
