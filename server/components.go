package server

import (
	"brink/datastore"
	"brink/internal/lifecycle"
	"brink/network/nodeaddr"
	"brink/server/controlplane"
	"brink/server/pki"
	"brink/server/tunnel"
)

// Names of the server's components, as `brink status` and the log have them.
const (
	Address           = nodeaddr.ComponentName
	Datastore         = datastore.ComponentName
	ClusterRanges     = "cluster-ranges"
	Certificates      = pki.ComponentName
	VolatileDatastore = datastore.VolatileComponentName
	TunnelServer      = tunnel.ComponentName
	FirstNode         = "first-node"
	APIServer         = "apiserver"
	Controllers       = "controllers"
	Scheduler         = "scheduler"
	ClusterSetup      = "cluster-setup"
	JoinRequests      = "join-requests"
)

// Components returns the server's parts in start order. Each waits for the one above it,
// unless Needs says otherwise. docs/architecture.md shows them as a graph.
func (s *Server) Components() []lifecycle.Component {
	return []lifecycle.Component{
		{Name: Address, Run: s.watchAddresses, Needs: lifecycle.Nothing},                             // ends the process when the machine gets another address
		{Name: Datastore, Run: s.store.Durable().Run, Needs: lifecycle.Nothing},                      // the cluster's state
		{Name: ClusterRanges, Run: s.runClusterRanges},                                               // refuses flags that the state contradicts
		{Name: Certificates, Run: s.runCertificates},                                                 // after the datastore, which may be another cluster's
		{Name: VolatileDatastore, Run: s.store.Volatile().Run},                                       // leases and events, in memory
		{Name: TunnelServer, Run: s.tunnels.Run},                                                     // the way to agents' kubelets and pods
		{Name: FirstNode, Run: s.runFirstNode},                                                       // the pod range of the first node, without waiting for controllers
		{Name: APIServer, Run: s.plane.RunAPIServer, StopTimeout: controlplane.APIServerStopTimeout}, // ready when /readyz says so
		{Name: Controllers, Run: s.plane.RunControllers},                                             // on the API server's informers
		{Name: Scheduler, Run: s.plane.RunScheduler},                                                 // as the controllers
		{Name: ClusterSetup, Run: s.runClusterSetup},                                                 // the objects that every cluster has
		{Name: JoinRequests, Run: s.runJoinRequests},                                                 // decides which machines become nodes
	}
}
