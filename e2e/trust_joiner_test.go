package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/e2e/machine"
	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
)

// joiner is a machine without an agent: it speaks to the API as one would.
type joiner struct {
	t     *testing.T
	node  *node // the server
	token kubernetes.Interface
	key   nodekey.Key
	// private is the key of all of its certificates.
	private *ecdsa.PrivateKey
}

func newJoiner(t *testing.T, n *node, token jointoken.Token) *joiner {
	t.Helper()
	client, err := n.holderOf(token)
	if err != nil {
		t.Fatal(err)
	}
	return &joiner{t: t, node: n, token: client, key: newPassword(t), private: newKey(t)}
}

// newPassword is a machine's node password.
func newPassword(t *testing.T) nodekey.Key {
	t.Helper()
	key, err := nodekey.Load(filepath.Join(t.TempDir(), "node-password"))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

// keyPEM is the key of the machine's certificates.
func (j *joiner) keyPEM() []byte {
	j.t.Helper()
	der, err := x509.MarshalECPrivateKey(j.private)
	if err != nil {
		j.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// request is one for a certificate, with the proof that the machine asks.
func (j *joiner) request(template x509.CertificateRequest, signer string, purpose certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	j.t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, j.private)
	if err != nil {
		j.t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Annotations: map[string]string{nodekey.Annotation: j.key.Prove(der)}},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, purpose},
		},
	}
}

// asks puts a request to the cluster and waits for what comes of it.
func (j *joiner) asks(client kubernetes.Interface, template x509.CertificateRequest, signer string, purpose certificatesv1.KeyUsage) *certificatesv1.CertificateSigningRequest {
	j.t.Helper()
	csr, err := client.CertificatesV1().CertificateSigningRequests().Create(j.t.Context(), j.request(template, signer, purpose), metav1.CreateOptions{})
	if err != nil {
		j.t.Fatal(err)
	}
	for begun := time.Now(); time.Since(begun) < patience && decided(csr) != nil; time.Sleep(50 * time.Millisecond) {
		if csr, err = j.node.Client.CertificatesV1().CertificateSigningRequests().Get(j.t.Context(), csr.Name, metav1.GetOptions{}); err != nil {
			j.t.Fatal(err)
		}
	}
	return csr
}

func nodeSubject(name string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
}

// joins asks with the token.
func (j *joiner) joins(name string) *certificatesv1.CertificateSigningRequest {
	j.t.Helper()
	return j.renews(j.token, name)
}

// renews asks for a client certificate with the client's own identity.
func (j *joiner) renews(client kubernetes.Interface, name string) *certificatesv1.CertificateSigningRequest {
	j.t.Helper()
	return j.asks(client, x509.CertificateRequest{Subject: nodeSubject(name)}, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
}

func (j *joiner) serves(client kubernetes.Interface, name, dns string, addresses ...string) *certificatesv1.CertificateSigningRequest {
	j.t.Helper()
	template := x509.CertificateRequest{Subject: nodeSubject(name), DNSNames: []string{dns}}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	return j.asks(client, template, certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth)
}

// asNode is the node that a certificate makes of the machine.
func (j *joiner) asNode(csr *certificatesv1.CertificateSigningRequest) kubernetes.Interface {
	j.t.Helper()
	return j.asNodeFrom(j.node.Netns(), csr)
}

func (j *joiner) asNodeFrom(from machine.Netns, csr *certificatesv1.CertificateSigningRequest) kubernetes.Interface {
	j.t.Helper()
	config, err := j.node.RestConfig()
	if err != nil {
		j.t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.Host, config.Dial = "https://"+j.node.Addr.String()+":6443", from.Dial
	config.CertData = csr.Status.Certificate
	config.KeyData = j.keyPEM()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		j.t.Fatal(err)
	}
	return client
}

// registers makes the node object as a kubelet does.
func (j *joiner) registers(client kubernetes.Interface, name, address string) {
	j.t.Helper()
	nodes := client.CoreV1().Nodes()
	if _, err := nodes.Create(j.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		j.t.Fatal(err)
	}
	// A patch: controllers write to new nodes too.
	status := fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":%q},{"type":"Hostname","address":%q}]}}`, address, name)
	if _, err := nodes.Patch(j.t.Context(), name, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
		j.t.Fatal(err)
	}
}

func (j *joiner) isApproved(csr *certificatesv1.CertificateSigningRequest) {
	j.t.Helper()
	if len(csr.Status.Certificate) == 0 {
		j.t.Errorf("no certificate: %+v", csr.Status.Conditions)
	}
}

func (j *joiner) isDenied(csr *certificatesv1.CertificateSigningRequest, message string) {
	j.t.Helper()
	for _, c := range csr.Status.Conditions {
		if c.Type == certificatesv1.CertificateDenied && strings.Contains(c.Message, message) {
			return
		}
	}
	j.t.Errorf("conditions are %+v, want a refusal: %s", csr.Status.Conditions, message)
}

// mayNotAsk for a certificate with another's name.
func (j *joiner) mayNotAsk(client kubernetes.Interface, name string) {
	j.t.Helper()
	csr := j.request(x509.CertificateRequest{Subject: nodeSubject(name)}, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth)
	_, err := client.CertificatesV1().CertificateSigningRequests().Create(j.t.Context(), csr, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		j.t.Errorf("a node asks in the name of %s: %v", name, err)
	}
}
