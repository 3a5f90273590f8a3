package server

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"brink/internal/wire/clusterconfig"
	"brink/internal/wire/jointoken"
	"brink/server/join"
	"brink/server/pki"
	"brink/server/token"
)

// public are the paths of the HTTPS port that a machine asks before the cluster
// knows it.
func (c Config) public(status *token.StatusHandler) map[string]http.Handler {
	return map[string]http.Handler{
		jointoken.CAPath:     token.CACerts(pki.Dir(c.Layout.TLS()).ServerCA()),
		jointoken.StatusPath: status,
	}
}

// serverToken is this server's own token.
func (c Config) serverToken() token.ServerToken {
	return token.ServerToken{File: c.Layout.ServerToken(), CAFile: pki.Dir(c.Layout.TLS()).ServerCA(), Server: c.NodeName}
}

// runJoin lets machines in. Nobody waits for it: the server's own node needs no
// token, and an agent tries until it is answered. As runClusterSetup it never
// ends the server because of an object that cannot be written.
func (s *Server) runJoin(ctx context.Context, ready func()) error {
	ready()
	client, err := s.ownClient()
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keep := func(what string, make func(context.Context) error) {
		running.Go(func() { ensure(ctx, what, make) })
	}
	for what, make := range nodeAccess(client) {
		keep(what, make)
	}
	keep("ConfigMap "+clusterconfig.Name, func(ctx context.Context) error { return s.keepClusterConfig(ctx, client) })
	keep("the token in "+s.cfg.Layout.ServerToken(), func(ctx context.Context) error { return s.cfg.serverToken().Sync(ctx, client) })
	if err := s.dropTunnels(); err != nil {
		return err
	}
	controller := join.New(join.Config{
		Client: client, Informers: s.plane.Informers(), OwnNode: s.cfg.ownNode(), TokenStatus: s.tokenStatus, Sources: s.tunnels.Sources, OuterIPs: s.cfg.outerIPs(),
	})
	s.gate.AdoptBy(controller.Adopt)
	s.gate.ProvenBy(controller.Proven)
	return controller.Run(ctx)
}

// dropTunnels ends those of nodes that are deleted.
func (s *Server) dropTunnels() error {
	_, err := s.plane.Informers().Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(object any) {
		if name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil {
			s.tunnels.Drop(name)
		}
	}})
	return err
}

// ownNode is the name of the node in this process, empty without one.
func (c Config) ownNode() string {
	if c.HasAgent {
		return c.NodeName
	}
	return ""
}

// managedBy tells who finds a change of theirs gone why.
const managedBy = "brink.io/comment"

// keepClusterConfig writes what nodes must know about the cluster, as this
// server's flags say it. Unlike a role it is no user's to change: the flags are,
// and what nodes do has to agree with what servers do.
func (s *Server) keepClusterConfig(ctx context.Context, client kubernetes.Interface) error {
	want, err := s.clusterConfig()
	if err != nil {
		return err
	}
	maps := client.CoreV1().ConfigMaps(clusterconfig.Namespace)
	has, err := maps.Get(ctx, clusterconfig.Name, metav1.GetOptions{})
	if err != nil {
		return ifMissing(err, func() error {
			_, err := maps.Create(ctx, want, metav1.CreateOptions{})
			return err
		})
	}
	if has.Data[clusterconfig.Key] == want.Data[clusterconfig.Key] {
		return nil
	}
	has.Data = want.Data
	metav1.SetMetaDataAnnotation(&has.ObjectMeta, managedBy, want.Annotations[managedBy])
	_, err = maps.Update(ctx, has, metav1.UpdateOptions{})
	return err
}

func (s *Server) clusterConfig() (*corev1.ConfigMap, error) {
	ca, err := os.ReadFile(pki.Dir(s.cfg.Layout.TLS()).ClientCA())
	if err != nil {
		return nil, fmt.Errorf("reading the client CA: %w", err)
	}
	text, err := clusterconfig.Config{
		ClusterCIDRs: s.cfg.ClusterCIDRs, ServiceCIDRs: s.cfg.ServiceCIDRs, ClusterDNS: s.cfg.ClusterDNS,
		ClusterDomain: s.cfg.ClusterDomain, NetworkBackend: s.cfg.NetworkBackend, ClientCA: string(ca),
	}.Encode()
	if err != nil {
		return nil, err
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: clusterconfig.Namespace, Name: clusterconfig.Name,
			Annotations: map[string]string{managedBy: "brink server writes this at every start, from its flags"},
		},
		Data: map[string]string{clusterconfig.Key: text},
	}, nil
}
