package join

import (
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"brink/internal/wire/nodekey"
	"brink/server/token"
)

// badRequest is a request for a client certificate, and why it is refused.
type badRequest struct {
	csr     *certificatesv1.CertificateSigningRequest
	message string
}

func badRequests(t *testing.T) map[string]badRequest {
	m := newMachine(t)
	type csr = certificatesv1.CertificateSigningRequest
	with := func(change func(*csr)) *csr {
		r := m.joining("till-3")
		change(r)
		return r
	}
	as := func(change func(*x509.CertificateRequest)) *csr {
		template := x509.CertificateRequest{Subject: subject("till-3")}
		change(&template)
		return m.joiningAs(template)
	}
	const usages = `the usages have to be "digital signature" and "client auth", with or without "key encipherment"`
	long := strings.Repeat("a", 64)
	return map[string]badRequest{
		"no proof":        {with(func(r *csr) { r.Annotations = nil }), "the request has no proof of the machine's node password: is this an agent of brink?"},
		"damaged proof":   {with(func(r *csr) { r.Annotations[nodekey.Annotation] = "AAAA" }), "the proof of the machine's node password is damaged"},
		"another's proof": {with(func(r *csr) { r.Annotations = m.joining("till-3").Annotations }), "the proof of the machine's node password is not one for this request"},
		"no PEM":          {with(func(r *csr) { r.Spec.Request = []byte("hello") }), "this is not one certificate request in PEM form"},
		"two requests":    {with(func(r *csr) { r.Spec.Request = append(r.Spec.Request, r.Spec.Request...) }), "this is not one certificate request in PEM form"},
		"damaged":         {with(func(r *csr) { r.Spec.Request = inPEM([]byte("hello")) }), "the certificate request is damaged"},
		"forged": {with(func(r *csr) {
			der := signed(t, x509.CertificateRequest{Subject: subject("till-3")})
			der[len(der)-1] ^= 1
			r.Spec.Request = inPEM(der)
		}), "the certificate request is not signed by its key"},
		"no usages":    {with(func(r *csr) { r.Spec.Usages = nil }), usages},
		"server's":     {with(func(r *csr) { r.Spec.Usages = append(r.Spec.Usages, certificatesv1.UsageServerAuth) }), usages},
		"only signing": {with(func(r *csr) { r.Spec.Usages = r.Spec.Usages[:1] }), usages},
		"user":         {as(func(x *x509.CertificateRequest) { x.Subject.CommonName = "admin" }), `the common name "admin" does not begin with system:node:`},
		"masters":      {as(func(x *x509.CertificateRequest) { x.Subject.Organization = []string{"system:masters"} }), "the subject has to be the organization system:nodes and the common name, and nothing else"},
		"two groups":   {as(func(x *x509.CertificateRequest) { x.Subject.Organization = []string{"system:nodes", "system:masters"} }), "the subject has to be the organization system:nodes and the common name, and nothing else"},
		"more subject": {as(func(x *x509.CertificateRequest) { x.Subject.OrganizationalUnit = []string{"x"} }), "the subject has to be the organization system:nodes and the common name, and nothing else"},
		"no name":      {m.joining(""), `"" is not usable as a node name: lower-case letters, digits, '-' and '.' only`},
		"capitals":     {m.joining("Till"), `"Till" is not usable as a node name: lower-case letters, digits, '-' and '.' only`},
		"path":         {m.joining("../x"), `"../x" is not usable as a node name: lower-case letters, digits, '-' and '.' only`},
		"long":         {m.joining(long), `the node name "` + long + `" is longer than 63 characters: give a shorter --node-name`},
		"names":        {as(func(x *x509.CertificateRequest) { x.DNSNames = []string{"till-3"} }), "a client certificate has no alternative names"},
		"addresses":    {as(func(x *x509.CertificateRequest) { x.IPAddresses = []net.IP{net.ParseIP("192.0.2.1")} }), "a client certificate has no alternative names"},
		"mail":         {as(func(x *x509.CertificateRequest) { x.EmailAddresses = []string{"a@example.org"} }), "a node's certificate has no mail addresses and no URIs"},
		"URI":          {as(func(x *x509.CertificateRequest) { x.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }), "a node's certificate has no mail addresses and no URIs"},
	}
}

func TestBadClientRequests(t *testing.T) {
	t.Parallel()
	for name, test := range badRequests(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.start()
				c.isRefused(c.asked(test.csr), ReasonBadRequest, test.message)
				secrets, err := c.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
				if err != nil || len(secrets.Items) != 1 { // the token
					t.Errorf("a refused request left %v, %v", secrets.Items, err)
				}
			})
		})
	}
}

// What others decide on stays as it is.
func TestOthersRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.start()
		type csr = certificatesv1.CertificateSigningRequest
		m := newMachine(t)
		with := func(r *csr, change func(*csr)) *csr { change(r); return r }
		others := map[string]*csr{
			"another group's token": with(m.joining("a"), func(r *csr) {
				r.Spec.Groups = []string{"system:bootstrappers", "system:bootstrappers:kubeadm:default-node-token"}
			}),
			"a user in the group": with(m.joining("b"), func(r *csr) { r.Spec.Username = "eve" }),
			"a user's renewal":    with(m.joining("c"), func(r *csr) { r.Spec.Username, r.Spec.Groups = "eve", []string{"system:nodes"} }),
			"another signer's":    with(m.joining("d"), func(r *csr) { r.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName }),
			"a token's serving":   with(serving(t, "e"), func(r *csr) { r.Spec.Username, r.Spec.Groups = "system:bootstrap:abcdef", []string{token.Group} }),
			"a user's serving":    with(serving(t, "f"), func(r *csr) { r.Spec.Groups = []string{"system:authenticated"} }),
			"denied by hand": with(m.joining("g"), func(r *csr) {
				r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue}}
			}),
		}
		csrs := c.CertificatesV1().CertificateSigningRequests()
		i := 0
		for what, r := range others {
			r.Name = fmt.Sprintf("other-%d", i)
			i++
			r.Annotations = map[string]string{"what": what, nodekey.Annotation: r.Annotations[nodekey.Annotation]}
			if _, err := csrs.Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.isApproved(c.asked(m.joining("last"))) // those before were looked at
		for _, r := range others {
			has, err := csrs.Get(t.Context(), r.Name, metav1.GetOptions{})
			if err != nil || len(has.Status.Conditions) != len(r.Status.Conditions) {
				t.Errorf("%s: %v, %v", r.Annotations["what"], has.Status.Conditions, err)
			}
		}
	})
}
