package node

import (
	"brink/agent"
	"brink/agent/join"
	"brink/internal/layout"
	"brink/server"
)

// Config is what the flags of `brink server` or `brink agent` say, parsed. A machine
// either is a server or joins one. Each part that it does not run is nil.
type Config struct {
	Layout   layout.Layout
	NodeName string
	// NodeID is the part of the name that a start writes down as this machine's, empty when
	// the name has none.
	NodeID string

	Server *server.Config // nil on a machine that joins
	Join   *join.Config   // nil on a server
	Agent  *agent.Config  // nil on a server with --disable-agent

	// Ignored are flags that have no effect, a line each that says why.
	Ignored []string
	// NoUpgradeSnapshot is the user's word that a start of another version makes none.
	NoUpgradeSnapshot bool
	// PProf serves profiles on the status socket.
	PProf bool
}

// role is what the machine is, as `brink status` says it.
func (c Config) role() string {
	switch {
	case c.Server == nil:
		return "agent"
	case c.Agent == nil:
		return "server without agent"
	}
	return "server"
}
