package server

import (
	"net/http"
	"net/netip"
	"slices"

	"brink/datastore"
	"brink/internal/wire/jointoken"
	"brink/internal/wire/tunnelwire"
	"brink/network/nodeaddr"
	"brink/server/controlplane"
	"brink/server/noderecord"
	"brink/server/pki"
	"brink/server/token"
	"brink/server/tunnel"
)

// This file derives from the server's Config what each part has to know.

// pki returns what certificates are made for.
func (c Config) pki(serviceIPs []netip.Addr) pki.Config {
	return pki.Config{
		Dir:           c.Layout.TLS(),
		ClusterDomain: c.ClusterDomain,
		NodeName:      c.NodeName,
		NodeIPs:       c.nodeIPs(),
		ServiceIPs:    serviceIPs,
		ExtraSANs:     c.extraSANs(),
	}
}

// tunnels returns the server's end of agents' tunnels; the node in this process has none.
// witness hears from agents how far the cluster's state was, in case this server's disk was
// restored from a copy.
func (c Config) tunnels(gate *noderecord.Gate, witness func(node string, revision int64)) *tunnel.Server {
	return tunnel.New(tunnel.Config{
		OwnNode:      c.ownNode(),
		OwnIPs:       slices.Concat(c.nodeIPs(), c.outerIPs()),
		OwnAPI:       c.local(),
		InNetwork:    nodeaddr.IsNeighbour,
		IsAgent:      gate.HasRecord,
		ClusterCIDRs: c.ClusterCIDRs,
		Witness:      witness,
	})
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

// cluster returns the hash of the server CA, by which agents know their cluster, empty before
// there is a CA.
func (c Config) cluster() string {
	hash, err := token.CAHash(pki.Dir(c.Layout.TLS()).ServerCA())
	if err != nil {
		return ""
	}
	return hash
}

// controlPlane returns what the control plane has to know, with a datastore at these etcd
// endpoints.
func (c Config) controlPlane(durable, volatile string, tunnels *tunnel.Server) controlplane.Config {
	return controlplane.Config{
		BindAddress:      c.BindAddress,
		Port:             c.Port,
		AdvertiseAddress: c.advertised(),
		OwnNode:          c.ownNode(),
		OwnIPs:           c.nodeIPs(),
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

// etcd returns nil unless the datastore endpoint is an etcd that somebody else runs.
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

// public returns the paths of the HTTPS port that answer a machine before the cluster knows
// it.
func (c Config) public(status *token.StatusHandler) map[string]http.Handler {
	return map[string]http.Handler{
		jointoken.CAPath:     token.CACerts(pki.Dir(c.Layout.TLS()).ServerCA()),
		jointoken.StatusPath: status,
	}
}

// serverToken returns where this server's own token is.
func (c Config) serverToken() token.ServerToken {
	return token.ServerToken{File: c.Layout.ServerToken(), CAFile: pki.Dir(c.Layout.TLS()).ServerCA(), Server: c.NodeName}
}
