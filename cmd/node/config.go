package node

import (
	"brink/agent"
	"brink/agent/join"
	"brink/internal/layout"
	"brink/network/nodeaddr"
	"brink/server"
)

// Config is what the flags of `brink server` or `brink agent` say, parsed.
type Config struct {
	Layout       layout.Layout
	Server       server.Config // of a server
	Join         *join.Config  // of a machine that joins, nil on a server
	Agent        agent.Config
	Found        []nodeaddr.Address // of the machine, none when the user gave them
	Ignored      []string           // what the user said in vain, a line each
	DisableAgent bool
	PProf        bool
}
