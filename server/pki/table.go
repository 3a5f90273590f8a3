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
	// KubeletCA signs the serving certificates of kubelets. It is not ServerCA: a node
	// influences the names and addresses in its certificate, and with ServerCA's signature
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

// User names that certificates assert and that other packages must know.
const (
	// KubeletClientUser is the user of the API server at kubelets. It needs a
	// ClusterRoleBinding to system:kubelet-api-admin.
	KubeletClientUser = "kube-apiserver-kubelet-client"
	// AuthProxyUser is the user of the API server at aggregated servers; it belongs in
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

// node is the subject that the signer of kubelets' serving certificates requires.
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

// Cert returns the certificate file of an authority or a leaf.
func (d Dir) Cert(name string) string { return filepath.Join(string(d), name+".crt") }

// Key returns the private key file of an authority or a leaf.
func (d Dir) Key(name string) string { return filepath.Join(string(d), name+".key") }

// ServerCA returns the file by which clients verify the API server.
func (d Dir) ServerCA() string { return d.Cert(ServerCA) }

// KubeletCA returns the file by which the API server verifies kubelets.
func (d Dir) KubeletCA() string { return d.Cert(KubeletCA) }

// ClientCA returns the file by which the API server and kubelets verify clients.
func (d Dir) ClientCA() string { return d.Cert(ClientCA) }

// RequestHeaderCA returns the file by which aggregated API servers verify the API server.
func (d Dir) RequestHeaderCA() string { return d.Cert(RequestHeaderCA) }

// ServiceKey returns the file of the key that signs service account tokens. Its public part
// verifies them.
func (d Dir) ServiceKey() string { return d.Key("service") }

// files returns every file of the table.
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
