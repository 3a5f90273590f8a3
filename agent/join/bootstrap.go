package join

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
	"brink/internal/wire/nodeuser"
)

// approvalPatience is how long a request may be undecided before another one
// is made: servers decide in milliseconds.
const approvalPatience = time.Minute

// startPatience is how long an API server may refuse a token that it says is valid.
const startPatience = 2 * time.Minute

// join gets the CA and a certificate with the token.
func (j *Join) join(ctx context.Context) error {
	ca, err := j.fetchAuthority(ctx)
	if err != nil {
		return j.explain(err)
	}
	j.ca = ca
	isValid, err := j.checkToken(ctx)
	if err != nil {
		return j.explain(err)
	}
	cert, key, err := j.request(ctx, isValid)
	if err != nil {
		return j.explain(err)
	}
	// The CA first: a certificate without it is as good as none.
	if err := ca.write(j.cfg.Layout.ClusterCA()); err != nil {
		return fmt.Errorf("writing the cluster's CA: %w", err)
	}
	_, err = j.certs.Update(cert, key)
	return err
}

// verified returns a configuration that verifies the server by the known CA and shows no
// certificate.
func (j *Join) verified() *tls.Config {
	return &tls.Config{RootCAs: j.ca.pool, ServerName: serverName, MinVersion: tls.VersionTLS12}
}

// checkToken asks the server for the state of the token, and returns an error that names
// it when it is not valid. The API server would only answer 401. isValid is false when
// the server cannot tell, which leaves it to the API server.
func (j *Join) checkToken(ctx context.Context) (isValid bool, _ error) {
	client := j.client(j.verified())
	defer client.CloseIdleConnections()
	resp, err := get(ctx, client, j.url(jointoken.StatusPath), j.cfg.Token.Bootstrap())
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError {
		return false, fmt.Errorf("the server is not ready: it answers %s", resp.Status)
	}
	var status jointoken.Status
	if json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&status) != nil {
		return false, nil
	}
	since := ""
	if status.Since != nil {
		since = " on " + status.Since.Local().Format(time.DateTime)
	}
	switch status.State {
	case jointoken.Expired:
		return false, permanentf("the token with the id %s has expired%s: %s", j.cfg.Token.ID, since, makeAnother)
	case jointoken.Deleted:
		return false, permanentf("the token with the id %s was deleted%s: %s", j.cfg.Token.ID, since, makeAnother)
	case jointoken.Unknown:
		return false, j.unknownToken()
	}
	return status.State == jointoken.Valid, nil
}

const makeAnother = "make another with brink token create on the server"

func (j *Join) unknownToken() error {
	return permanentf("the server does not know the token with the id %s: it is of another cluster, or its secret is wrong; %s", j.cfg.Token.ID, makeAnother)
}

// request returns a certificate for the node's name and its key, in PEM. An API
// server that has just started refuses what it will accept a moment later, so its
// refusal of a token that is known to be valid is not permanent.
func (j *Join) request(ctx context.Context, isValid bool) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	csr, err := j.makeRequest(private)
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfig(j.bootstrapAPI())
	if err != nil {
		return nil, nil, err
	}
	requests := client.CertificatesV1().CertificateSigningRequests()
	made, err := requests.Create(ctx, csr, metav1.CreateOptions{})
	isRefused := apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err)
	if isRefused && j.tokenRefused.IsZero() {
		j.tokenRefused = time.Now()
	}
	switch {
	case err == nil:
	case isRefused && isValid && time.Since(j.tokenRefused) < startPatience:
		return nil, nil, fmt.Errorf("asking for a certificate: %w", err)
	case apierrors.IsUnauthorized(err):
		return nil, nil, j.unknownToken()
	case apierrors.IsForbidden(err):
		return nil, nil, permanentf("the token with the id %s may not be used to join: %s", j.cfg.Token.ID, makeAnother)
	default:
		return nil, nil, fmt.Errorf("asking for a certificate: %w", err)
	}
	if cert, err = awaitCertificate(ctx, client, made.Name); err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(private)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

// dialGiven dials the server that was given, whatever address is asked for: a machine
// that has not joined uses no server that it remembers.
func (j *Join) dialGiven(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, j.cfg.Server)
}

// bootstrapAPI returns a configuration that reaches the API server with the token.
func (j *Join) bootstrapAPI() *rest.Config {
	return &rest.Config{
		Host:            "https://" + j.cfg.Server,
		BearerToken:     j.cfg.Token.Bootstrap(),
		TLSClientConfig: rest.TLSClientConfig{CAData: j.ca.bundle, ServerName: serverName},
		Timeout:         20 * time.Second,
		Dial:            j.dialGiven,
		Proxy:           noProxy,
	}
}

func (j *Join) makeRequest(key crypto.Signer) (*certificatesv1.CertificateSigningRequest, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: nodeuser.Subject(j.cfg.NodeName)}, key)
	if err != nil {
		return nil, err
	}
	password, err := nodekey.Load(j.cfg.Layout.NodePassword())
	if err != nil {
		return nil, permanent{err}
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "brink-join-",
			Annotations:  map[string]string{nodekey.Annotation: password.Prove(der)},
		},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, nil
}

// awaitCertificate polls until the request is decided and signed.
func awaitCertificate(ctx context.Context, client kubernetes.Interface, name string) (cert []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, approvalPatience)
	defer cancel()
	pause := wait.Backoff{Duration: 50 * time.Millisecond, Factor: 1.3, Steps: 100, Cap: 2 * time.Second}
	err = pause.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		csr, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, fmt.Errorf("waiting for the certificate: %w", err)
		}
		cert, err = decision(csr)
		return len(cert) > 0, err
	})
	if wait.Interrupted(err) {
		return nil, fmt.Errorf("no server has decided on the certificate request within %s", approvalPatience)
	}
	return cert, err
}

// decision returns the certificate, or the refusal as an error, or neither yet.
func decision(csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateDenied:
			return nil, permanentf("%s", c.Message)
		case certificatesv1.CertificateFailed:
			return nil, fmt.Errorf("the servers could not sign the certificate request: %s", c.Message)
		}
	}
	return csr.Status.Certificate, nil
}
