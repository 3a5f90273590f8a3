package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"brink/internal/testwait"
	"brink/internal/wire/noderights"
	"brink/internal/wire/tunnelwire"
	server "brink/server/tunnel"
)

// These tests have both ends in one process, with TLS and TCP between them. That
// agent and server do not know each other is a law for what is built, not for
// its tests.

// patience is only waited out by a failing test.
const patience = 20 * time.Second

// hasty is for tests in which links fail.
var hasty = timing{
	firstDelay: 20 * time.Millisecond, maxDelay: 100 * time.Millisecond, unreachedDelay: time.Hour, stable: time.Second,
	newReason: time.Minute, readIdle: 300 * time.Millisecond, pingTimeout: 300 * time.Millisecond,
}

// authority signs the certificates of a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	a := &authority{t: t}
	leaf := a.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.cert, a.key = leaf.Leaf, leaf.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

var serial atomic.Int64

func (a *authority) issue(template *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(serial.Add(1))
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) client(name, group string) tls.Certificate {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{group}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func (a *authority) node(name string) tls.Certificate {
	return a.client("system:node:"+name, user.NodesGroup)
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) config(cert tls.Certificate) func() (*tls.Config, error) {
	return func() (*tls.Config, error) {
		return &tls.Config{RootCAs: a.pool(), Certificates: []tls.Certificate{cert}}, nil
	}
}

// apiServer is an API server as far as tunnels know one: TLS that asks for
// certificates, both versions of HTTP, and a chain that authenticates.
type apiServer struct {
	*server.Server
	ca   *authority
	seen atomic.Int64 // serial number of the last client
	said atomic.Value // noderights.Proof of the last client
	http *http.Server
	addr string
}

func (a *authority) serve(addr string) *apiServer {
	a.t.Helper()
	s := &apiServer{Server: server.New(server.Config{Patience: 100 * time.Millisecond}), ca: a}
	s.listen(addr)
	a.t.Cleanup(s.stop)
	return s
}

func (s *apiServer) listen(addr string) {
	s.ca.t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		s.ca.t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	serving := s.ca.issue(&x509.Certificate{DNSNames: []string{"kubernetes"}})
	s.http = &http.Server{
		Handler:   s,
		ErrorLog:  log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{serving}, ClientCAs: s.ca.pool(), ClientAuth: tls.VerifyClientCertIfGiven},
	}
	go s.http.ServeTLS(listener, "", "")
}

func (s *apiServer) stop() {
	s.http.Close()
	s.Close()
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(r.TLS.PeerCertificates) == 0 {
		http.Error(w, "who are you", http.StatusUnauthorized)
		return
	}
	cert := r.TLS.PeerCertificates[0]
	s.seen.Store(cert.SerialNumber.Int64())
	s.said.Store(r.Header.Get(noderights.Proof))
	who := &user.DefaultInfo{Name: cert.Subject.CommonName, Groups: cert.Subject.Organization}
	s.Server.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), who)))
}

// run keeps the tunnels of a node until the test ends.
func run(t testing.TB, cfg Config, servers ...string) *Tunnels {
	t.Helper()
	tunnels := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		if err := tunnels.Run(ctx, func() { close(ready) }); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		testwait.Closed(t, "the end of Run", done)
	})
	testwait.Closed(t, "readiness", ready)
	tunnels.SetServers(servers)
	return tunnels
}

// target listens and handles each connection.
func target(t testing.TB, handle func(net.Conn)) netip.AddrPort {
	return targetAt(t, "127.0.0.1", handle)
}

func targetAt(t testing.TB, ip string, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return netip.MustParseAddrPort(listener.Addr().String())
}

func echo(conn net.Conn) { io.Copy(conn, conn) }

// dial fails the test when the kubelet cannot be reached.
func dial(t testing.TB, s *server.Server, node string) net.Conn {
	t.Helper()
	conn, err := s.Dial(t.Context(), node, "tcp", tunnelwire.Kubelet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// echoes sends bytes there and back.
func echoes(conn net.Conn, payload []byte) error {
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(payload)
		written <- err
	}()
	got := make([]byte, len(payload))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if !bytes.Equal(got, payload) {
		return errors.New("other bytes came back")
	}
	return <-written
}

func mustEcho(t testing.TB, conn net.Conn, payload []byte) {
	t.Helper()
	if err := echoes(conn, payload); err != nil {
		t.Fatal(err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// one is a server with the tunnel of node a.
func one(t testing.TB, handle func(net.Conn)) (*apiServer, *Tunnels) {
	t.Helper()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, handle)}, s.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	return s, tunnels
}
