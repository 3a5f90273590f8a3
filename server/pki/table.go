package pki

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"path/filepath"

	"brink/internal/layout"
	"brink/internal/wire/nodeuser"
)

// The authorities.
const (
	ServerCA = layout.ServerCA
	ClientCA = layout.ClientCA
	// KubeletCA signs what kubelets serve with. It is not ServerCA: a node has a say
	// in the names and addresses of its certificate, and with ServerCA's signature
	// it could pass for the API server.
	KubeletCA       = layout.KubeletCA
	RequestHeaderCA = layout.RequestHeaderCA
)

// The leaves.
const (
	ServingAPIServer = layout.ServingAPIServer
	ServingKubelet   = layout.ServingKubelet
	ClientAdmin      = layout.ClientAdmin
	ClientAPIServer  = layout.ClientAPIServer
	ClientAuthProxy  = layout.ClientAuthProxy
)

// User names that certificates assert and others must know.
const (
	// KubeletClientUser is the API server towards kubelets. It needs a
	// ClusterRoleBinding to system:kubelet-api-admin.
	KubeletClientUser = "kube-apiserver-kubelet-client"
	// AuthProxyUser is the API server towards aggregated ones; it belongs in
	// --requestheader-allowed-names.
	AuthProxyUser = "system:auth-proxy"
)

type leafSpec struct {
	name    string
	ca      string
	subject func(Config) pkix.Name
	usage   x509.ExtKeyUsage
	sans    func(Config) []string // names and addresses; nil is none
}

var authorityNames = []string{ServerCA, ClientCA, KubeletCA, RequestHeaderCA}

var leaves = []leafSpec{
	{ServingAPIServer, ServerCA, user("kube-apiserver"), x509.ExtKeyUsageServerAuth, apiServerSANs},
	{ServingKubelet, KubeletCA, node, x509.ExtKeyUsageServerAuth, nodeSANs},
	{ClientAdmin, ClientCA, user("system:admin", "system:masters"), x509.ExtKeyUsageClientAuth, nil},
	{ClientAPIServer, ClientCA, user(KubeletClientUser), x509.ExtKeyUsageClientAuth, nil},
	{ClientAuthProxy, RequestHeaderCA, user(AuthProxyUser), x509.ExtKeyUsageClientAuth, nil},
}

func user(name string, groups ...string) func(Config) pkix.Name {
	return func(Config) pkix.Name { return pkix.Name{CommonName: name, Organization: groups} }
}

// node is the name that the kubelet-serving signer would demand.
func node(c Config) pkix.Name {
	return nodeuser.Subject(c.NodeName)
}

func apiServerSANs(c Config) []string {
	sans := []string{
		"kubernetes",
		"kubernetes.default",
		"kubernetes.default.svc",
		"kubernetes.default.svc." + c.ClusterDomain,
		"localhost", "127.0.0.1", "::1",
	}
	sans = append(sans, texts(c.ServiceIPs)...)
	sans = append(sans, nodeSANs(c)...)
	return append(sans, c.ExtraSANs...)
}

func nodeSANs(c Config) []string {
	return append([]string{c.NodeName}, texts(c.NodeIPs)...)
}

func texts(ips []netip.Addr) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.Unmap().WithZone("").String()
	}
	return out
}

// Dir is a certificate directory; its methods name the files in it.
type Dir string

// Cert is the certificate file of an authority or a leaf.
func (d Dir) Cert(name string) string { return filepath.Join(string(d), name+".crt") }

// Key is the private key file of an authority or a leaf.
func (d Dir) Key(name string) string { return filepath.Join(string(d), name+".key") }

// ServerCA is what clients verify the API server with.
func (d Dir) ServerCA() string { return d.Cert(ServerCA) }

// KubeletCA is what the API server verifies kubelets with.
func (d Dir) KubeletCA() string { return d.Cert(KubeletCA) }

// ClientCA is what the API server and kubelets verify clients with.
func (d Dir) ClientCA() string { return d.Cert(ClientCA) }

// RequestHeaderCA is what aggregated API servers verify the API server with.
func (d Dir) RequestHeaderCA() string { return d.Cert(RequestHeaderCA) }

// ServiceKey signs service account tokens and, as a key pair, verifies them.
func (d Dir) ServiceKey() string { return d.Key("service") }

// files is every file of the table.
func (d Dir) files() []string {
	out := []string{d.ServiceKey()}
	for _, a := range authorityNames {
		out = append(out, d.Key(a), d.Cert(a))
	}
	for _, l := range leaves {
		out = append(out, d.Key(l.name), d.Cert(l.name))
	}
	return out
}
