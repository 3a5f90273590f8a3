package images_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"brink/runtime/testnode"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// authority is a CA of the test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) path(file string) string { return filepath.Join(a.dir, file) }

func (a *authority) write(file, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(a.path(file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue writes name.pem and name.key for 127.0.0.1 as server and client.
func (a *authority) issue(name string) tls.Certificate {
	a.t.Helper()
	key := newKey(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", keyDER)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// deadAddress is one on loopback that refuses connections. The socket holds the
// port, so that nobody else listens there while the test runs.
func deadAddress(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*syscall.SockaddrInet4).Port)
}

func TestPullsAsRegistriesFileSays(t *testing.T) {
	n := testnode.New(t)
	untrustedHost, lockedHost := serveRegistries(t, n)
	n.Start()
	t.Cleanup(func() { n.Stop() })

	for _, c := range []struct {
		image, wantError string
	}{
		{"fallback.test/team/app:1", ""},
		{"private.test/team/app:1", ""},
		{"mutual.test/team/app:1", ""},
		{"unverified.test/team/app:1", ""},
		{"proxy.test/team/app:1", ""},
		{"not-named.test/team/app:1", ""},
		{untrustedHost + "/team/app:1", "certificate"},
		{lockedHost + "/team/app:1", "401 Unauthorized"},
	} {
		t.Run(c.image, func(t *testing.T) { requirePull(t, n, c.image, c.wantError) })
	}
	t.Run("a pulled image runs", func(t *testing.T) {
		sandbox, pod := n.Sandbox("pulled")
		id := n.Container(sandbox, pod, "private.test/team/app:1", "sh", "-c", "exit 5")
		if status := n.WaitState(id, cri.ContainerState_CONTAINER_EXITED); status.ExitCode != 5 {
			t.Errorf("exit code is %d, want 5", status.ExitCode)
		}
	})
	t.Run("no password is written to disk", func(t *testing.T) { requireNoPassword(t, n) })
}

// serveRegistries runs a registry of each kind, and writes the file by which the node uses
// them as mirrors. It returns the names of two registries that must not be pulled from.
func serveRegistries(t *testing.T, n *testnode.Node) (untrustedHost, lockedHost string) {
	t.Helper()
	ca := newAuthority(t)
	serverTLS := &tls.Config{Certificates: []tls.Certificate{ca.issue("server")}}
	ca.issue("client")
	mutualTLS := serverTLS.Clone()
	mutualTLS.ClientAuth, mutualTLS.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool()

	plain := testnode.ServeRegistry(t, nil, "team/app", nil)
	private := testnode.ServeRegistry(t, serverTLS, "team/app", testnode.BasicAuth("shop", "s3cret"))
	mutual := testnode.ServeRegistry(t, mutualTLS, "team/app", nil)
	untrusted := testnode.ServeRegistry(t, serverTLS, "team/app", nil)
	unverified := testnode.ServeRegistry(t, serverTLS, "team/app", nil)
	locked := testnode.ServeRegistry(t, serverTLS, "team/app", testnode.BasicAuth("shop", "other"))
	proxy := testnode.ServeRegistry(t, nil, "team/app", belowProxy)

	// When its mirror refuses, containerd asks the registry itself, by a name
	// that must not leave this machine.
	untrustedHost, lockedHost = deadAddress(t), deadAddress(t)
	text := fmt.Sprintf(`mirrors:
  fallback.test: {endpoint: ["http://%[1]s", "http://%[2]s"]}
  private.test: {endpoint: ["https://%[3]s"]}
  mutual.test: {endpoint: ["https://%[4]s"]}
  "%[12]s": {endpoint: ["https://%[5]s"]}
  unverified.test: {endpoint: ["https://%[6]s"]}
  "%[13]s": {endpoint: ["https://%[7]s"]}
  proxy.test: {endpoint: ["http://%[8]s/proxy/hub"]}
  "*": {endpoint: ["http://%[2]s"]}
configs:
  "%[3]s":
    auth: {username: shop, password: s3cret}
    tls: {ca_file: "%[9]s"}
  "%[4]s":
    tls: {ca_file: "%[9]s", cert_file: "%[10]s", key_file: "%[11]s"}
  "%[6]s":
    tls: {insecure_skip_verify: true}
  "%[7]s":
    auth: {username: shop, password: s3cret}
    tls: {ca_file: "%[9]s"}
`, deadAddress(t), plain, private, mutual, untrusted, unverified, locked, proxy,
		ca.path("ca.pem"), ca.path("client.pem"), ca.path("client.key"), untrustedHost, lockedHost)
	if err := os.WriteFile(n.Config.RegistriesFile, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return untrustedHost, lockedHost
}

// belowProxy serves a registry below a path of its own, as mirrors with several upstreams do.
func belowProxy(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/proxy/hub")
		if !ok {
			http.NotFound(w, r)
			return
		}
		r.URL.Path = "/v2" + rest
		next.ServeHTTP(w, r)
	})
}

// requirePull pulls an image, or fails to with a reason.
func requirePull(t *testing.T, n *testnode.Node, image, wantError string) {
	t.Helper()
	_, err := n.Images().PullImage(n.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
	if wantError != "" {
		if err == nil {
			t.Fatal("pulled what it must not trust or may not have")
		}
		// The last endpoint tried is the registry itself, which is not
		// there; what the mirror said is in the log.
		if !strings.Contains(err.Error()+n.Log.String(), wantError) {
			t.Errorf("error is %v, want %q in it or the log", err, wantError)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	status, err := n.Images().ImageStatus(n.Context(), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
	if err != nil || status.Image == nil {
		t.Errorf("pulled and not there: %v %v", status, err)
	}
}

func requireNoPassword(t *testing.T, n *testnode.Node) {
	t.Helper()
	filepath.WalkDir(n.Config.Layout.ContainerdState(), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if content, err := os.ReadFile(path); err == nil && strings.Contains(string(content), "s3cret") {
			t.Errorf("%s contains the password", path)
		}
		return nil
	})
}
