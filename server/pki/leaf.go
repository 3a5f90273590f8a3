package pki

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"brink/internal/clock"
)

// issued is a leaf as it is on disk.
type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// reissueDue issues every leaf that is due or does not fit and returns their names, even when
// it fails at a later one. After the first call it works from memory: the files are this
// process's own.
func (t *Tree) reissueDue() (names []string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	for _, spec := range leaves {
		reason, err := t.whyReissueLocked(spec, now)
		if err == nil && reason != "" {
			err = t.issueLocked(spec, now, reason)
			names = append(names, spec.name)
		}
		if err != nil {
			return names, fmt.Errorf("issuing certificate %s: %w", spec.name, err)
		}
	}
	return names, nil
}

// whyReissueLocked returns why a leaf has to be issued again, "" when it has not.
func (t *Tree) whyReissueLocked(spec leafSpec, now time.Time) (string, error) {
	leaf := t.leaves[spec.name]
	if leaf == nil {
		var reason string
		if leaf, reason = t.loadLeaf(spec); leaf == nil || reason != "" {
			return reason, nil
		}
		t.leaves[spec.name] = leaf
	}
	if reason := misfit(leaf.cert, spec, t.cfg, t.authorities[spec.ca].cert); reason != "" {
		return reason, nil
	}
	if now.Before(leaf.cert.NotBefore) {
		return "valid only from " + clock.Stamp(leaf.cert.NotBefore), nil
	}
	if !now.Before(t.renewAt(spec, leaf.cert)) {
		return "valid until " + clock.Stamp(leaf.cert.NotAfter), nil
	}
	return "", nil
}

// loadLeaf reads a pair. When it cannot be used, that is a reason to issue it again and not
// an error.
func (t *Tree) loadLeaf(spec leafSpec) (*issued, string) {
	certs, err := readCertificates(t.Cert(spec.name))
	if isMissing(err) {
		return nil, "missing"
	}
	if err != nil {
		return nil, err.Error()
	}
	key, err := readKey(t.Key(spec.name))
	if err != nil {
		return nil, err.Error()
	}
	if !belongsTo(certs[0], key) {
		return nil, "certificate and key do not belong together"
	}
	return &issued{cert: certs[0], key: key}, ""
}

// misfit returns in what cert differs from the table, "" when it does not.
func misfit(cert *x509.Certificate, spec leafSpec, cfg Config, ca *x509.Certificate) string {
	if cert.CheckSignatureFrom(ca) != nil || string(cert.RawIssuer) != string(ca.RawSubject) {
		return "signed by another authority"
	}
	if want := spec.subject(cfg).String(); cert.Subject.String() != want {
		return fmt.Sprintf("subject was %s", cert.Subject)
	}
	if !slices.Contains(cert.ExtKeyUsage, spec.usage) {
		return "usage differs"
	}
	if has, want := sansOf(cert), wantedSANs(spec, cfg); !slices.Equal(has, want) {
		return "names were " + strings.Join(has, ",")
	}
	return ""
}

func wantedSANs(spec leafSpec, cfg Config) []string {
	if spec.sans == nil {
		return nil
	}
	return normalized(spec.sans(cfg))
}

func sansOf(cert *x509.Certificate) []string {
	sans := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		sans = append(sans, ip.String())
	}
	return normalized(sans)
}

// normalized returns names and addresses in canonical form, sorted and without duplicates.
func normalized(sans []string) []string {
	var out []string
	for _, s := range sans {
		if ip, err := netip.ParseAddr(s); err == nil {
			s = ip.Unmap().String()
		}
		out = append(out, strings.ToLower(s))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// renewAt returns when a leaf is due. A leaf that ends with its authority is not due before
// its end: a new one would not last longer.
func (t *Tree) renewAt(spec leafSpec, cert *x509.Certificate) time.Time {
	if !cert.NotAfter.Before(t.authorities[spec.ca].cert.NotAfter) {
		return cert.NotAfter.Add(time.Second)
	}
	return cert.NotAfter.Add(-t.cfg.Lifetimes.RenewBefore)
}

func (t *Tree) issueLocked(spec leafSpec, now time.Time, reason string) error {
	key, err := t.leafKey(spec.name)
	if err != nil {
		return err
	}
	ca := t.authorities[spec.ca]
	cert, err := sign(t.template(spec, ca, now), ca.cert, key, ca.key)
	if err != nil {
		return err
	}
	if err := writeCertificates(t.Cert(spec.name), append([]*x509.Certificate{cert}, ca.chain...)...); err != nil {
		return err
	}
	t.leaves[spec.name] = &issued{cert: cert, key: key}
	slog.Info("certificate issued", "component", ComponentName, "name", spec.name, "expires", clock.Stamp(cert.NotAfter), "reason", reason)
	return nil
}

// leafKey returns the key on disk, or makes one if there is no usable key.
func (t *Tree) leafKey(name string) (crypto.Signer, error) {
	if key, err := readKey(t.Key(name)); err == nil {
		return key, nil
	}
	return makeKey(t.Key(name))
}

func (t *Tree) template(spec leafSpec, ca *authority, now time.Time) *x509.Certificate {
	template := &x509.Certificate{
		Subject:               spec.subject(t.cfg),
		NotBefore:             latest(now.Add(-backdate), ca.cert.NotBefore),
		NotAfter:              earliest(now.Add(t.cfg.Lifetimes.Leaf), ca.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{spec.usage},
		BasicConstraintsValid: true,
	}
	for _, san := range wantedSANs(spec, t.cfg) {
		if ip, err := netip.ParseAddr(san); err == nil {
			template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
		} else {
			template.DNSNames = append(template.DNSNames, san)
		}
	}
	return template
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
