package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"brink/e2e/machine"
)

// lanHost is the switch's own address: the machines' router, and the address that
// requests from outside a node come from. lanPrefix is how all addresses of its
// segment begin.
const (
	lanPrefix = "172.31.250."
	lanHost   = lanPrefix + "1"
)

// near is the segment of most machines, far a second one: the switch is the router
// between them.
var (
	near = machine.Segment{Bridge: "br0", Net: netip.MustParsePrefix(lanPrefix + "0/24"), Net6: netip.MustParsePrefix("fd31:250::/64"), Routed: true}
	far  = machine.Segment{Bridge: "br1", Net: netip.MustParsePrefix("172.31.251.0/24"), Routed: true}
)

// sharedLAN makes the switch of all machines when the first one is made.
var sharedLAN = sync.OnceValues(func() (*machine.Switch, error) { return machine.NewSwitch(near, far) })

// serveClientIP starts a web server on the switch that answers with the client's address.
func serveClientIP(t *testing.T) string {
	t.Helper()
	return serveClientIPAt(t, lanHost)
}

// serveClientIPAt is serveClientIP at one of the switch's addresses.
func serveClientIPAt(t *testing.T, host string) string {
	t.Helper()
	return serveAt(t, host, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	}))
}

// ca is a certificate authority that is not brink's, with a server certificate.
type ca struct {
	pem  []byte
	leaf tls.Certificate
}

func newCA(t *testing.T, from time.Time) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, DNSNames: []string{"kubernetes"},
		NotBefore: from.Add(-time.Hour), NotAfter: from.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &ca{
		pem:  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		leaf: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
	}
}

// serveOnLAN serves on the switch, with TLS when there is a CA, and returns where.
func serveOnLAN(t *testing.T, with *ca, handler http.Handler) string {
	t.Helper()
	return serveAt(t, lanHost, with, handler)
}

func serveAt(t *testing.T, host string, with *ca, handler http.Handler) string {
	t.Helper()
	sw, err := sharedLAN()
	if err != nil {
		t.Fatal(err)
	}
	l, err := sw.Netns().Listen(net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if with != nil {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{with.leaf}})
	}
	srv := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	return addr
}

// asker asks a URL again and again and counts what fails.
type asker struct {
	stop func()
	done chan struct{}

	mu       sync.Mutex
	asked    int
	failures []string
}

func ask(from machine.Netns, url string) *asker {
	ctx, cancel := context.WithCancel(context.Background())
	a := &asker{stop: cancel, done: make(chan struct{})}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: from.Dial, DisableKeepAlives: true}}
	go func() {
		defer close(a.done)
		for ctx.Err() == nil {
			resp, err := client.Get(url)
			if err == nil {
				_ = resp.Body.Close()
			}
			a.mu.Lock()
			a.asked++
			if err != nil {
				a.failures = append(a.failures, time.Now().Format(time.TimeOnly)+" "+err.Error())
			}
			a.mu.Unlock()
			time.Sleep(50 * time.Millisecond)
		}
	}()
	return a
}

// end returns how many requests there were, and those that failed.
func (a *asker) end() (int, []string) {
	a.stop()
	<-a.done
	return a.asked, a.failures
}
