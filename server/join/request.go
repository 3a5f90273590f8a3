package join

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"brink/internal/wire/nodeuser"
	"brink/server/noderecord"
	"brink/server/token"
)

// request is a certificate request that is well-formed and asks for nothing that nodes may
// not have.
type request struct {
	node string // the name in the certificate
	der  []byte // PKCS #10
	key  string // of the certificate, in the form that records have it
	dns  []string
	ips  []netip.Addr
}

// readerOf returns the function that reads a request which this package decides on, nil for
// all other requests: client certificates for holders of join tokens and for nodes, and
// serving certificates for nodes. The API server vouches for user and groups.
func readerOf(csr *certificatesv1.CertificateSigningRequest) func(*certificatesv1.CertificateSigningRequest) (request, error) {
	spec := csr.Spec
	switch {
	case spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && isByToken(csr):
		return readClient
	case spec.SignerName == certificatesv1.KubeletServingSignerName && isByNode(csr):
		return readServing
	case isRenewal(csr):
		return readRenewal
	}
	return nil
}

// isByToken reports whether a machine asks by a join token.
func isByToken(csr *certificatesv1.CertificateSigningRequest) bool {
	return slices.Contains(csr.Spec.Groups, token.Group) && strings.HasPrefix(csr.Spec.Username, bootstrapapi.BootstrapUserPrefix)
}

// isRenewal reports whether a node asks for its next client certificate.
func isRenewal(csr *certificatesv1.CertificateSigningRequest) bool {
	return csr.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName && isByNode(csr)
}

// isByNode reports whether a node asks.
func isByNode(csr *certificatesv1.CertificateSigningRequest) bool {
	_, isNode := nodeuser.Node(csr.Spec.Username)
	return isNode && slices.Contains(csr.Spec.Groups, nodeuser.Group)
}

// needsWork reports whether a request has to be decided on, or is a renewal that somebody
// else has approved and whose key has to be written into the record.
func needsWork(csr *certificatesv1.CertificateSigningRequest) bool {
	return isUndecided(csr) || isRenewal(csr) && len(csr.Status.Conditions) == 1 && csr.Status.Conditions[0].Type == certificatesv1.CertificateApproved && csr.Status.Conditions[0].Reason != reasonApproved
}

func isUndecided(csr *certificatesv1.CertificateSigningRequest) bool {
	return len(csr.Status.Certificate) == 0 && len(csr.Status.Conditions) == 0
}

// tokenOf returns the id of the token by which a request was made.
func tokenOf(csr *certificatesv1.CertificateSigningRequest) string {
	id, _ := strings.CutPrefix(csr.Spec.Username, bootstrapapi.BootstrapUserPrefix)
	return id
}

func readClient(csr *certificatesv1.CertificateSigningRequest) (request, error) {
	x, r, err := read(csr)
	if err != nil {
		return r, err
	}
	if len(x.DNSNames)+len(x.IPAddresses) > 0 {
		return r, errors.New("a client certificate has no alternative names")
	}
	return r, checkUsages(csr.Spec.Usages, certificatesv1.UsageClientAuth)
}

func readServing(csr *certificatesv1.CertificateSigningRequest) (request, error) {
	x, r, err := read(csr)
	if err != nil {
		return r, err
	}
	if x.Subject.CommonName != csr.Spec.Username {
		return r, fmt.Errorf("the common name %q is not that of the node that asks, %s", x.Subject.CommonName, csr.Spec.Username)
	}
	for _, name := range x.DNSNames {
		if name != r.node {
			return r, fmt.Errorf("the name %q is not that of the node that asks, %s", name, r.node)
		}
	}
	for _, ip := range x.IPAddresses {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			return r, errors.New("an alternative name is not an IP address")
		}
		r.ips = append(r.ips, addr.Unmap())
	}
	if len(x.DNSNames)+len(r.ips) == 0 {
		return r, errors.New("a serving certificate needs a name or an address")
	}
	return r, checkUsages(csr.Spec.Usages, certificatesv1.UsageServerAuth)
}

// read checks what all requests of nodes have in common. The request that it returns
// with an error has the name, if the certificate request had one.
func read(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, request, error) {
	block, rest := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, request{}, errors.New("this is not one certificate request in PEM form")
	}
	x, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, request{}, errors.New("the certificate request is damaged")
	}
	name, isNode := nodeuser.Node(x.Subject.CommonName)
	r := request{node: name, der: block.Bytes}
	if public, err := x509.MarshalPKIXPublicKey(x.PublicKey); err == nil { // as it is in the certificate
		r.key = noderecord.KeyOf(public)
	}
	switch {
	case x.CheckSignature() != nil:
		err = errors.New("the certificate request is not signed by its key")
	case !isNode:
		err = fmt.Errorf("the common name %q does not begin with %s", x.Subject.CommonName, nodeuser.Prefix)
	case !slices.Equal(x.Subject.Organization, []string{nodeuser.Group}) || len(x.Subject.Names) != 2:
		err = fmt.Errorf("the subject has to be the organization %s and the common name, and nothing else", nodeuser.Group)
	case !nodeuser.HasNodeNameForm(name):
		err = fmt.Errorf("%q is not usable as a node name: lower-case letters, digits, '-' and '.' only", name)
	case len(name) > nodeuser.MaxNodeName:
		err = fmt.Errorf("the node name %q is longer than %d characters: give a shorter --node-name", name, nodeuser.MaxNodeName)
	case len(x.EmailAddresses)+len(x.URIs) > 0:
		err = errors.New("a node's certificate has no mail addresses and no URIs")
	}
	return x, r, err
}

// checkUsages requires a signing key for the purpose; RSA keys may also encipher.
func checkUsages(has []certificatesv1.KeyUsage, purpose certificatesv1.KeyUsage) error {
	rest := slices.DeleteFunc(slices.Clone(has), func(u certificatesv1.KeyUsage) bool {
		return u == certificatesv1.UsageKeyEncipherment
	})
	slices.Sort(rest)
	want := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, purpose}
	slices.Sort(want)
	if !slices.Equal(slices.Compact(rest), want) {
		return fmt.Errorf("the usages have to be %q and %q, with or without %q", certificatesv1.UsageDigitalSignature, purpose, certificatesv1.UsageKeyEncipherment)
	}
	return nil
}
