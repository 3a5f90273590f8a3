package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"brink/server/pki"
)

// authorityOf names the CA of each leaf certificate that is used over the network.
var authorityOf = map[string]string{
	pki.ServingAPIServer: pki.ServerCA,
	pki.ServingKubelet:   pki.KubeletCA,
	pki.ClientAdmin:      pki.ClientCA,
	pki.ClientAPIServer:  pki.ClientCA,
	pki.ClientAuthProxy:  pki.RequestHeaderCA,
}

func (n *node) tls() pki.Dir { return pki.Dir(n.Layout().TLS()) }

// resign replaces a leaf's certificate by one for the same key, names and usage,
// signed by the same authority, with a new serial number and another validity.
// It is renamed into place, as brink itself does.
func (n *node) resign(leaf string, from, until time.Time) (*x509.Certificate, error) {
	ca, err := tls.LoadX509KeyPair(n.tls().Cert(authorityOf[leaf]), n.tls().Key(authorityOf[leaf]))
	if err != nil {
		return nil, err
	}
	old, err := tls.LoadX509KeyPair(n.tls().Cert(leaf), n.tls().Key(leaf))
	if err != nil {
		return nil, err
	}
	template := *old.Leaf
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = from, until
	der, err := x509.CreateCertificate(rand.Reader, &template, ca.Leaf, old.Leaf.PublicKey, ca.PrivateKey)
	if err != nil {
		return nil, err
	}
	// The rest of the chain stays as it is.
	var chain bytes.Buffer
	for _, block := range append([][]byte{der}, old.Certificate[1:]...) {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: block}); err != nil {
			return nil, err
		}
	}
	next := filepath.Join(n.Dir, leaf+".next")
	if err := os.WriteFile(next, chain.Bytes(), 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(next, n.tls().Cert(leaf)); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// TestCertificates takes a node's certificates through their life: expired while
// it was off, replaced while it runs.
func TestCertificates(t *testing.T) {
	t.Parallel()
	n := startNode(t, "tls-san:", "  - shop.example")
	ns := newNamespace(t, n)
	ns.apply(talker)
	ns.readyPod("talker")
	presented, err := n.handshake("6443", "shop.example")
	if err != nil {
		t.Fatalf("TLS by the name of --tls-san: %v", err)
	}
	ns.mustEqual("the certificate's user", presented.Subject.CommonName, "kube-apiserver")

	if err := n.Stop(); err != nil {
		t.Fatal(err)
	}
	n.expireAll(t)
	kubeconfig := hash(t, n.Kubeconfig())
	if err := n.Start(); err != nil {
		t.Fatal(err)
	}
	ns.client = n.Client
	if hash(t, n.Kubeconfig()) == kubeconfig {
		t.Error("the admin kubeconfig still holds the expired certificate")
	}
	n.leavesAreValid(t)
	// Each through another pair of certificates: the client's, and the API
	// server's towards the kubelet.
	ns.readyPod("talker")
	// A kubelet that has just started does not know its pods for a moment.
	ns.eventually("logs after the restart", func() error {
		out, err := ns.tryKubectl("logs", "talker")
		if err != nil {
			return err
		}
		return contains(out, ns.name+"-line-1-end")
	})
	ns.eventuallyExec("talker", "hello", "echo", "hello")

	ns.replacedWhileRunning(pki.ServingAPIServer, "6443")
	ns.replacedWhileRunning(pki.ServingKubelet, "10250")
	ns.eventuallyExec("talker", "hello", "echo", "hello")
	ns.mustEqual("the node's Ready condition", n.readiness(), "Ready")
	ns.podThat("talker", "was never restarted", func(p *corev1.Pod) bool { return restarts(p) == 0 })
}

// expireAll makes all leaves of a stopped node end in the past.
func (n *node) expireAll(t *testing.T) {
	t.Helper()
	now := time.Now()
	for leaf := range authorityOf {
		if _, err := n.resign(leaf, now.Add(-48*time.Hour), now.Add(-time.Hour)); err != nil {
			t.Fatalf("expiring %s: %v", leaf, err)
		}
	}
}

func (n *node) leavesAreValid(t *testing.T) {
	t.Helper()
	soon := time.Now().Add(30 * 24 * time.Hour)
	for leaf := range authorityOf {
		pair, err := tls.LoadX509KeyPair(n.tls().Cert(leaf), n.tls().Key(leaf))
		if err != nil {
			t.Error(err)
			continue
		}
		if pair.Leaf.NotAfter.Before(soon) {
			t.Errorf("%s is valid until %v only", leaf, pair.Leaf.NotAfter)
		}
	}
}

// replacedWhileRunning renews a serving certificate, as brink does for one that
// is due, and waits until the port presents it.
func (ns *namespace) replacedWhileRunning(leaf, port string) {
	ns.Helper()
	n := ns.node
	now := time.Now()
	want, err := n.resign(leaf, now.Add(-time.Hour), now.Add(365*24*time.Hour))
	if err != nil {
		ns.Fatal(err)
	}
	ns.eventually("the new certificate on port "+port, func() error {
		got, err := n.handshake(port, n.ID)
		if err == nil && got.SerialNumber.Cmp(want.SerialNumber) != 0 {
			err = fmt.Errorf("the serial number is %v, want %v", got.SerialNumber, want.SerialNumber)
		}
		return err
	})
}

// handshake connects from the machine to a port of its own with the authority of
// the admin kubeconfig, and returns whom it met.
func (n *node) handshake(port, name string) (*x509.Certificate, error) {
	authority := n.tls().ServerCA()
	if port == "10250" {
		authority = n.tls().KubeletCA()
	}
	bundle, err := os.ReadFile(authority)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return nil, errors.New("the authority's file holds no certificate")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	raw, err := n.Netns().Dial(ctx, "tcp", n.Addr.String()+":"+port)
	if err != nil {
		return nil, err
	}
	defer func() { _ = raw.Close() }()
	conn := tls.Client(raw, &tls.Config{RootCAs: roots, ServerName: name})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}
