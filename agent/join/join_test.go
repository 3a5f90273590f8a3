package join

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/util/certificate"

	"brink/internal/layout"
	"brink/internal/wire/jointoken"
	"brink/internal/wire/nodekey"
	"brink/internal/wire/nodeuser"
)

func TestParseServer(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://192.0.2.1:6443":   "192.0.2.1:6443",
		"https://192.0.2.1:443/":   "192.0.2.1:443",
		"https://edge.example.org": "edge.example.org:6443",
		"https://[2001:db8::1]":    "[2001:db8::1]:6443",
		"192.0.2.1":                "192.0.2.1:6443",
		"edge.example.org:6444":    "edge.example.org:6444",
	} {
		if got, err := ParseServer(text); got != want {
			t.Errorf("ParseServer(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"http://192.0.2.1:6443": "https, not http",
		"https://":              "not a server",
		"https://a/b":           "not a server",
		"https://u:p@a":         "not a server",
		"https://a:b:c":         "not a URL",
	} {
		if got, err := ParseServer(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseServer(%q) = %q, %v, want an error with %q", text, got, err, want)
		}
	}
}

// pair is a certificate for a node, in PEM.
func pair(t *testing.T, name string, until time.Time) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: nodeuser.Subject(name), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

// joined makes l the layout of a machine that has joined as the node till, with a
// certificate that is valid until then.
func joined(t *testing.T, l layout.Layout, until time.Time) {
	t.Helper()
	s, err := openStore(l.NodeCert(), "till")
	if err != nil {
		t.Fatal(err)
	}
	cert, key := pair(t, "till", until)
	if _, err := s.Update(cert, key); err != nil {
		t.Fatal(err)
	}
	ca, err := newAuthority(cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.write(l.ClusterCA()); err != nil {
		t.Fatal(err)
	}
}

func TestTheCertificateSurvivesARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "pki", "kubelet-client-current.pem")
	s, err := openStore(path, "till")
	if err != nil {
		t.Fatal(err)
	}
	var none *certificate.NoCertKeyError
	if _, err := s.Current(); !errors.As(err, &none) {
		t.Errorf("a new store: %v", err)
	}
	changes := 0
	s.changed = func() { changes++ }
	later := time.Now().Add(time.Hour)
	cert, key := pair(t, "till", later)
	otherCert, _ := pair(t, "till", later)
	if _, err := s.Update(otherCert, key); err == nil {
		t.Error("a certificate was taken that does not belong to the key")
	}
	if _, err := s.Update(cert, key); err != nil || changes != 1 {
		t.Fatalf("%v, %d changes", err, changes)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the file: %v, %v", info.Mode(), err)
	}
	for name, want := range map[string]string{"till": "", "other": "that of system:node:till, not system:node:other"} {
		again, err := openStore(path, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.usable(time.Now()); fmt.Sprint(err) != "<nil>" && (want == "" || !strings.Contains(err.Error(), want)) || (err == nil) != (want == "") {
			t.Errorf("as %s: %v", name, err)
		}
		if err := again.usable(later.Add(time.Second)); err == nil {
			t.Error("an expired certificate is usable")
		}
	}
	// Half a file is what a power cut leaves of others' ways to write.
	if err := os.WriteFile(path, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	damaged, err := openStore(path, "till")
	if err != nil || !errors.Is(damaged.usable(time.Now()), errNoCertificate) {
		t.Errorf("a damaged file: %v, %v", err, damaged.usable(time.Now()))
	}
}

func TestWithoutATokenTheReasonIsTold(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	cfg := Config{Server: "192.0.2.1:6443", NodeName: "till", Layout: l}
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "has not joined") {
		t.Errorf("a new machine: %v", err)
	}
	joined(t, l, time.Now().Add(-time.Hour))
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("a machine that was away for long: %v", err)
	}
	joined(t, l, time.Now().Add(time.Hour))
	if _, err := New(cfg); err != nil {
		t.Errorf("a node: %v", err)
	}
	other := jointoken.New(strings.Repeat("0", 64))
	cfg.Token = &other
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("the token of another cluster: %v", err)
	}
}

// TestCheckingATokenLogsNothing: a start makes a Join twice, to check the flags and to run
// it. It is not parallel, as the log is the process's.
func TestCheckingATokenLogsNothing(t *testing.T) {
	l := layout.New(t.TempDir())
	joined(t, l, time.Now().Add(time.Hour))
	var log bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	if _, err := New(Config{Server: "192.0.2.1:6443", NodeName: "till", Layout: l, TokenError: errors.New("damaged")}); err != nil || log.Len() > 0 {
		t.Errorf("%v, and it logs %q", err, log.String())
	}
}

func TestDecision(t *testing.T) {
	t.Parallel()
	csr := func(kind certificatesv1.RequestConditionType, cert string) *certificatesv1.CertificateSigningRequest {
		out := &certificatesv1.CertificateSigningRequest{}
		out.Status.Certificate = []byte(cert)
		if kind != "" {
			out.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: kind, Message: "the reason"}}
		}
		return out
	}
	if cert, err := decision(csr("", "")); len(cert) > 0 || err != nil {
		t.Errorf("undecided: %s, %v", cert, err)
	}
	if cert, err := decision(csr(certificatesv1.CertificateApproved, "x")); string(cert) != "x" || err != nil {
		t.Errorf("signed: %s, %v", cert, err)
	}
	_, err := decision(csr(certificatesv1.CertificateDenied, ""))
	if !errors.As(err, &permanent{}) || err.Error() != "the reason" {
		t.Errorf("denied: %v", err)
	}
	if _, err := decision(csr(certificatesv1.CertificateFailed, "")); err == nil || errors.As(err, &permanent{}) {
		t.Errorf("not signed: %v", err)
	}
}

// TestALostPasswordIsNotReplaced: the cluster would take the machine for another one.
func TestALostPasswordIsNotReplaced(t *testing.T) {
	t.Parallel()
	l := layout.New(t.TempDir())
	j := &Join{cfg: Config{NodeName: "till", Layout: l}}
	if got := j.Machine(); got != "" {
		t.Errorf("without a password the machine is %q", got)
	}
	if _, err := os.Stat(l.NodePassword()); err == nil {
		t.Error("it has made one")
	}
	key, err := nodekey.Load(l.NodePassword())
	if err != nil {
		t.Fatal(err)
	}
	if got := j.Machine(); !got.Is(key.Public()) {
		t.Errorf("the machine is %q, want %q", got, key.Public())
	}
}

func TestTryingEndsWhenItCannotGetBetter(t *testing.T) {
	t.Parallel()
	attempts := 0
	err := retry(t.Context(), "test", func(context.Context) error {
		if attempts++; attempts < 3 {
			return errors.New("temporary")
		}
		return fmt.Errorf("at last: %w", permanentf("for good"))
	})
	if attempts != 3 || err == nil || !strings.Contains(err.Error(), "for good") {
		t.Errorf("%d attempts, %v", attempts, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := retry(ctx, "test", func(context.Context) error { return errors.New("temporary") }); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: %v", err)
	}
}

func TestAttemptsThatFailAlikeAreToldAlike(t *testing.T) {
	t.Parallel()
	refused := func(port int) error {
		return fmt.Errorf("get: %w", &net.OpError{Op: "read", Net: "tcp",
			Source: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: port}, Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 6443}, Err: errors.New("reset")})
	}
	if a, b := brief(refused(1234)), brief(refused(4321)); a != b {
		t.Errorf("%q and %q", a, b)
	}
	// Its text has the port from which the name server was asked.
	lookup := func(port int) error {
		return fmt.Errorf("get: %w", &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Name: "hub", IsTimeout: true,
			Err: fmt.Sprintf("read udp 192.0.2.2:%d->192.0.2.1:53: i/o timeout", port)}})
	}
	if a, b := brief(lookup(1234)), brief(lookup(4321)); a != b || !strings.Contains(a, "host hub cannot be looked up") {
		t.Errorf("%q and %q", a, b)
	}
	// A clock that is off, seen by a certificate.
	early := fmt.Errorf("get: %w", x509.CertificateInvalidError{Reason: x509.Expired, Cert: &x509.Certificate{
		NotBefore: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC), NotAfter: time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)}})
	if got := brief(early); !strings.Contains(got, "valid from 2030-01-02 to 2031-01-02, and this machine's clock says otherwise") {
		t.Errorf("%q", got)
	}
	var forGood permanent
	if err := (&Join{}).explain(early); !errors.As(err, &forGood) || !strings.Contains(err.Error(), "2030-01-02") || !strings.Contains(err.Error(), "clock") {
		t.Errorf("while joining: %v", err)
	}
	if got := brief(&net.DNSError{Name: "hub", IsNotFound: true, Err: "no such host"}); got != "nobody knows the host hub: is the name right?" {
		t.Errorf("%q", got)
	}
}
