package server

import (
	"context"
	"sync"

	"k8s.io/client-go/tools/cache"

	"brink/internal/wire/clusterconfig"
	"brink/server/join"
)

// runJoinRequests lets machines in. Nothing waits for it: the server's own node needs no
// token, and an agent asks until it is answered. Like runClusterSetup, it never ends
// the server because of an object that cannot be written.
func (s *Server) runJoinRequests(ctx context.Context, ready func()) error {
	ready()
	client, err := s.ownClient()
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ensureAside := func(what string, make func(context.Context) error) {
		running.Go(func() { ensure(ctx, what, make) })
	}
	for what, make := range nodeAccess(client) {
		ensureAside(what, make)
	}
	ensureAside("ConfigMap "+clusterconfig.Name, func(ctx context.Context) error { return s.writeClusterConfig(ctx, client) })
	ensureAside("the token in "+s.cfg.Layout.ServerToken(), func(ctx context.Context) error { return s.cfg.serverToken().Sync(ctx, client) })
	if err := s.dropTunnels(); err != nil {
		return err
	}
	controller := join.New(join.Config{
		Client:      client,
		Informers:   s.plane.Informers(),
		OwnNode:     s.cfg.ownNode(),
		TokenStatus: s.tokenStatus,
		Sources:     s.tunnels.Sources,
		OuterIPs:    s.cfg.outerIPs(),
	})
	s.gate.AdoptBy(controller.Adopt)
	s.gate.ProvenBy(controller.Proven)
	return controller.Run(ctx)
}

// dropTunnels ends the tunnels of nodes that are deleted from now on.
func (s *Server) dropTunnels() error {
	_, err := s.plane.Informers().Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(object any) {
		if name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			s.tunnels.Drop(name)
		}
	}})
	return err
}
