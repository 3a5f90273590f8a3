package server

import (
	"context"

	"brink/server/pki"
)

// runCertificates makes the certificates and the admin kubeconfig, and renews them while the
// server runs. It starts after the datastore: an external database may belong to a cluster
// that has other certificates.
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

// localURL returns the URL by which a kubectl on this machine reaches the API server.
func (s *Server) localURL() string { return "https://" + s.cfg.local().String() }
