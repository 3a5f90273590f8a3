package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func TestAdminKubeconfig(t *testing.T) {
	t.Parallel()
	tree := mustEnsure(t, config(t).at(time.Now()))
	path := filepath.Join(t.TempDir(), "brink.yaml")
	if err := tree.WriteAdminKubeconfig(path, "https://127.0.0.1:6443", 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if client.Host != "https://127.0.0.1:6443" {
		t.Errorf("host %q", client.Host)
	}
	pair, err := tls.X509KeyPair(client.CertData, client.KeyData)
	if err != nil || pair.Leaf.Subject.CommonName != "system:admin" {
		t.Errorf("client certificate %v: %v", pair.Leaf, err)
	}
	handshake(t, tree, client.CAData, pair)
}

// handshake speaks mutual TLS between an API server with the tree's files and a
// client with the given credentials.
func handshake(t *testing.T, tree *Tree, ca []byte, client tls.Certificate) {
	t.Helper()
	serving, err := tls.LoadX509KeyPair(tree.Cert(ServingAPIServer), tree.Key(ServingAPIServer))
	if err != nil {
		t.Fatal(err)
	}
	clientCAs, serverCAs := x509.NewCertPool(), x509.NewCertPool()
	clientCAs.AddCert(certificate(t, tree.ClientCA()))
	serverCAs.AppendCertsFromPEM(ca)
	near, far := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(far, &tls.Config{Certificates: []tls.Certificate{serving},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientCAs}).Handshake()
	}()
	conn := tls.Client(near, &tls.Config{Certificates: []tls.Certificate{client}, RootCAs: serverCAs, ServerName: "127.0.0.1"})
	if err := conn.Handshake(); err != nil {
		t.Errorf("client: %v", err)
	}
	go conn.Read(make([]byte, 1)) // the pipe is unbuffered: take the session tickets
	if err := <-done; err != nil {
		t.Errorf("server: %v", err)
	}
	near.Close()
}

func TestWriteKubeconfig(t *testing.T) {
	t.Parallel()
	tree := mustEnsure(t, config(t))
	path := filepath.Join(t.TempDir(), "etc", "brink.yaml")
	write := func(server string, perm os.FileMode) os.FileInfo {
		t.Helper()
		if err := tree.WriteAdminKubeconfig(path, server, perm); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != perm {
			t.Fatalf("mode %v: %v", info.Mode(), err)
		}
		return info
	}
	first := write("https://127.0.0.1:6443", 0o600)
	if again := write("https://127.0.0.1:6443", 0o600); !os.SameFile(first, again) {
		t.Error("written again without a change")
	}
	if other := write("https://127.0.0.1:7443", 0o600); os.SameFile(first, other) {
		t.Error("not written for another server")
	}
	write("https://127.0.0.1:7443", 0o640)
}
