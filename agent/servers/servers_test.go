package servers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestServersAreRemembered(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "agent", "servers.json")
	p := Open("given:6443", file)
	if got := p.All(); !slices.Equal(got, []string{"given:6443"}) {
		t.Fatalf("a new pool has %v", got)
	}
	if err := p.Set([]string{"b:6443", "a:6443", "b:6443", "given:6443"}); err != nil {
		t.Fatal(err)
	}
	if err := p.Set(nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"given:6443", "a:6443", "b:6443"}
	for _, p := range []*Pool{p, Open("given:6443", file)} {
		if got := p.All(); !slices.Equal(got, want) {
			t.Errorf("servers %v, want %v", got, want)
		}
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Open("given:6443", file).All(); !slices.Equal(got, []string{"given:6443"}) {
		t.Errorf("a damaged file makes %v", got)
	}
}

// down are servers that do not answer; dialled notes who was asked.
type fakeNet struct {
	mu      sync.Mutex
	down    map[string]bool
	dialled []string
}

func (f *fakeNet) set(down ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down, f.dialled = map[string]bool{}, nil
	for _, server := range down {
		f.down[server] = true
	}
}

func (f *fakeNet) attempts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.dialled)
}

func (f *fakeNet) dial(_ context.Context, _ Dialer, addr string) (*tls.Conn, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialled = append(f.dialled, addr)
	if f.down[addr] {
		return nil, errors.New(addr + " is down")
	}
	conn, _ := net.Pipe()
	return tls.Client(conn, &tls.Config{}), nil
}

func pool(t *testing.T, f *fakeNet) *Pool {
	t.Helper()
	p := Open("one", filepath.Join(t.TempDir(), "servers.json"))
	p.dial = f.dial
	if err := p.Set([]string{"two", "three"}); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestConnectionsSpreadOverServers(t *testing.T) {
	t.Parallel()
	f := &fakeNet{}
	p := pool(t, f)
	for range 300 {
		if _, err := p.Dial(t.Context(), Dialer{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, server := range p.All() {
		count := 0
		for _, d := range f.dialled {
			if d == server {
				count++
			}
		}
		if count < 50 { // 100 are expected; 50 is six standard deviations away
			t.Errorf("%s was chosen %d times of 300", server, count)
		}
	}
}

func TestAServerThatFailsIsAskedLast(t *testing.T) {
	t.Parallel()
	f := &fakeNet{}
	f.set("one", "two")
	p := pool(t, f)
	for range 20 {
		if _, err := p.Dial(t.Context(), Dialer{}); err != nil {
			t.Fatal(err)
		}
	}
	// Each of the two is asked once at most: after that the third comes first.
	if len(f.dialled) > 22 {
		t.Errorf("%d attempts for 20 connections: %v", len(f.dialled), f.dialled)
	}
	f.set("three")
	if _, err := p.Dial(t.Context(), Dialer{}); err != nil {
		t.Errorf("those that failed before are not asked again: %v", err)
	}
	f.set("one", "two", "three")
	_, err := p.dialOnce(t.Context(), Dialer{})
	for _, server := range []string{"one", "two", "three"} {
		if err == nil || !strings.Contains(err.Error(), server+" is down") {
			t.Errorf("the error does not name %s: %v", server, err)
		}
	}
}

func TestASuspectIsAskedLast(t *testing.T) {
	t.Parallel()
	f := &fakeNet{}
	p := pool(t, f)
	p.Suspect() // nobody yet
	for range 20 {
		if _, err := p.Dial(t.Context(), Dialer{}); err != nil {
			t.Fatal(err)
		}
		last := f.dialled[len(f.dialled)-1]
		p.Suspect()
		if got := p.order(time.Now()); got[0] == last && len(p.failed) < 3 {
			t.Errorf("%s is asked first again: %v", last, got)
		}
	}
}

func TestAnOutageIsWaitedForAndTriedForByOne(t *testing.T) {
	t.Parallel()
	f := &fakeNet{}
	p := pool(t, f)
	f.set("one", "two", "three")
	impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Dial(impatient, Dialer{}); err == nil || !strings.Contains(err.Error(), "is down") {
		t.Errorf("waiting for an outage to end: %v", err)
	}
	done := make(chan error)
	const waiters = 100
	for range waiters {
		go func() {
			_, err := p.Dial(t.Context(), Dialer{})
			done <- err
		}()
	}
	time.Sleep(time.Second) // in which the one goroutine makes three attempts or so
	if n := f.attempts(); n > 3*10 {
		t.Errorf("%d attempts in one second of outage", n)
	}
	f.set()
	for range waiters {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestWhatListensIsNotAlwaysAServer: one that does not speak TLS, and one with
// somebody else's certificate, are left for one that is right.
func TestWhatListensIsNotAlwaysAServer(t *testing.T) {
	t.Parallel()
	good, stranger := httptest.NewTLSServer(nil), httptest.NewTLSServer(nil)
	defer good.Close()
	defer stranger.Close()
	plain := plainServer(t)
	stranger.TLS.Certificates[0] = selfSigned(t)
	trusted := x509.NewCertPool()
	trusted.AddCert(good.Certificate())
	p := Open(plain, filepath.Join(t.TempDir(), "servers.json"))
	if err := p.Set([]string{good.Listener.Addr().String(), stranger.Listener.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	way := Dialer{Dial: DialPlain, TLS: &tls.Config{RootCAs: trusted, ServerName: "example.com"}}
	for range 20 {
		conn, err := p.Dial(t.Context(), way)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := conn.RemoteAddr().String(), good.Listener.Addr().String(); got != want {
			t.Errorf("connected to %s, want %s", got, want)
		}
		conn.Close()
	}
	for _, server := range []string{plain, stranger.Listener.Addr().String()} {
		if _, failed := p.failed[server]; !failed {
			t.Errorf("%s is not known to have failed", server)
		}
	}
	good.Close()
	_, err := p.dialOnce(t.Context(), way)
	for _, part := range []string{"TLS with " + plain + ": tls: first record does not look like a TLS handshake",
		stranger.Listener.Addr().String() + " is no server of the cluster that this machine has joined", "connection refused"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want it to say %s", err, part)
		}
	}
}

// plainServer answers by HTTP without TLS, and returns its address.
func plainServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() { listener.Close(); running.Wait() })
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			conn.Close()
		}
	})
	return listener.Addr().String()
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"example.com"},
		NotAfter: time.Now().Add(time.Hour)}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
