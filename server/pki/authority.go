package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"brink/internal/clock"
)

// backdate is how far validity reaches into the past, for clocks that lag.
const backdate = time.Hour

// released is a time before which no correct clock can be.
var released = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

type authority struct {
	cert *x509.Certificate
	// chain is what a leaf's file has beside the leaf: the intermediates of a user's own
	// authority, nothing for brink's.
	chain []*x509.Certificate
	key   crypto.Signer
}

// loadAuthority returns nil when the authority has yet to be made: both files are missing,
// or only the certificate, as after an interrupted first start. It is an error when an
// authority that has signed is missing: a new one would invalidate everything that was
// issued by the old.
func (t *Tree) loadAuthority(name string, now time.Time) (*authority, error) {
	crt, keyFile := t.Cert(name), t.Key(name)
	key, keyErr := readKey(keyFile)
	if keyErr != nil && !isMissing(keyErr) {
		return nil, damaged(keyErr)
	}
	certs, err := readCertificates(crt)
	switch {
	case isMissing(err) && t.hasSigned(name):
		return nil, t.lost(crt)
	case isMissing(err):
		return nil, nil
	case err != nil:
		return nil, damaged(err)
	case isMissing(keyErr):
		return nil, fmt.Errorf("%s is missing but %s exists: restore the key from a backup", keyFile, crt)
	case !belongsTo(certs[0], key):
		return nil, fmt.Errorf("%s does not belong to %s: restore the pair from a backup", keyFile, crt)
	}
	if err := checkAuthority(crt, certs[0], now); err != nil {
		return nil, err
	}
	return &authority{cert: certs[0], chain: intermediates(certs), key: key}, nil
}

// hasSigned reports whether a leaf of the authority is on disk. Leaves are made after all
// authorities.
func (t *Tree) hasSigned(ca string) bool {
	return slices.ContainsFunc(leaves, func(l leafSpec) bool { return l.ca == ca && t.exists(l) })
}

func (t *Tree) exists(l leafSpec) bool {
	_, err := os.Lstat(t.Cert(l.name))
	return err == nil
}

// lost is the error of a missing file from which everything else was made.
func (t *Tree) lost(path string) error {
	return fmt.Errorf("%s is missing and what it signed is in use: restore it from a backup, or remove all of %s to begin with new authorities, which no earlier kubeconfig, node or pod will trust", path, t.Dir)
}

func damaged(err error) error {
	return fmt.Errorf("reading a certificate authority: %w: restore the file from a backup", err)
}

func intermediates(certs []*x509.Certificate) []*x509.Certificate {
	if certs[0].CheckSignatureFrom(certs[0]) == nil {
		return nil // a root; what follows it are other roots to trust
	}
	var out []*x509.Certificate
	for _, cert := range certs {
		if cert.CheckSignatureFrom(cert) != nil {
			out = append(out, cert)
		}
	}
	return out
}

func checkAuthority(path string, cert *x509.Certificate, now time.Time) error {
	if !cert.IsCA || (cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0) {
		return fmt.Errorf("%s is not a certificate authority: it may not sign certificates", path)
	}
	if err := checkClock(path, cert, now); err != nil {
		return err
	}
	if now.After(cert.NotAfter) {
		return fmt.Errorf("%s expired on %s (the clock says %s): if the clock is right, replace the authority and join the nodes again",
			path, clock.Stamp(cert.NotAfter), clock.Stamp(now))
	}
	if left := cert.NotAfter.Sub(now); left < 90*24*time.Hour {
		slog.Warn("certificate authority ends soon", "component", ComponentName, "file", path, "expires", clock.Stamp(cert.NotAfter))
	}
	return nil
}

func checkClock(path string, cert *x509.Certificate, now time.Time) error {
	if !now.Before(cert.NotBefore) {
		return nil
	}
	return fmt.Errorf("the clock says %s but %s is valid only from %s: set the clock or wait until it is synchronized, then start again",
		clock.Stamp(now), path, clock.Stamp(cert.NotBefore))
}

// makeAuthority writes the key first: after a power cut a key alone is used again, while a
// certificate alone would be worthless.
func (t *Tree) makeAuthority(name string, now time.Time) (*authority, error) {
	if now.Before(released) {
		return nil, fmt.Errorf("the clock says %s, before this version of brink was made: set the clock or wait until it is synchronized, then start again", clock.Stamp(now))
	}
	key, err := t.ensureKey(name)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		// The time keeps two clusters' authorities apart in a trust store.
		Subject:               pkix.Name{CommonName: fmt.Sprintf("brink-%s@%d", name, now.Unix())},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(t.cfg.Lifetimes.CA),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	cert, err := sign(template, template, key, key)
	if err != nil {
		return nil, err
	}
	slog.Info("certificate authority made", "component", ComponentName, "name", name, "expires", clock.Stamp(cert.NotAfter))
	return &authority{cert: cert, key: key}, writeCertificates(t.Cert(name), cert)
}

// ensureKey returns the key of that name, and makes it if it is missing.
func (t *Tree) ensureKey(name string) (crypto.Signer, error) {
	key, err := readKey(t.Key(name))
	if isMissing(err) {
		return makeKey(t.Key(name))
	}
	return key, err
}

// ensureServiceKey makes the key of service account tokens at the first start. It does not
// replace a damaged or lost one: that would invalidate the token of every running pod.
func (t *Tree) ensureServiceKey() error {
	if _, err := os.Lstat(t.ServiceKey()); isMissing(err) && slices.ContainsFunc(leaves, t.exists) {
		return t.lost(t.ServiceKey())
	}
	if _, err := t.ensureKey("service"); err != nil {
		return fmt.Errorf("reading the service account key: %w: restore the file from a backup", err)
	}
	return nil
}
