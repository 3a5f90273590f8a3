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

// New checks all settings, and parses the flags of the embedded components. Nothing runs
// yet, and nothing on disk is looked at or made: see Prepare. It sets the process's feature
// gates.
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

// Prepare checks the state on disk, and makes the directories for it. It comes before the
// components run. The caller holds the data directory's lock.
func (s *Server) Prepare() error { return s.store.Prepare() }

// ClientConfig reaches the API server in memory, acting as the given identity.
func (s *Server) ClientConfig(user string, groups ...string) *rest.Config {
	return s.plane.ClientConfig(user, groups...)
}

// StoreHealth returns nil while the datastore takes writes, else the reason why it does not.
func (s *Server) StoreHealth() error { return s.store.Health() }

// StoreWarning returns what in the datastore needs somebody's attention although it takes
// writes, nil when nothing does.
func (s *Server) StoreWarning() error { return s.store.Warning() }
