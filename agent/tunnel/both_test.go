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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"brink/internal/testneed"
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
	firstDelay: 20 * time.Millisecond, maxDelay: 100 * time.Millisecond, strangerDelay: time.Hour, stable: time.Second,
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

func TestBytesArrive(t *testing.T) {
	t.Parallel()
	s, tunnels := one(t, echo)
	conn := dial(t, s.Server, "a")
	mustEcho(t, conn, []byte("hello"))
	mustEcho(t, conn, random(5<<20))
	if status := tunnels.Status(); len(status) != 1 || !status[0].Up || status[0].Error != "" {
		t.Errorf("status is %+v", status)
	}
}

// TestEnds: one side's end is the other's, after everything that was sent.
func TestEnds(t *testing.T) {
	t.Parallel()
	sent := random(1 << 20)
	ended := make(chan error, 1)
	got := make(chan []byte, 1)
	handle := map[string]func(net.Conn){
		"target ends":  func(c net.Conn) { c.Write(sent) },
		"target fails": func(c net.Conn) { c.Write(sent[:10]); time.Sleep(50 * time.Millisecond); c.(*net.TCPConn).SetLinger(0) },
		"server ends": func(c net.Conn) {
			all, err := io.ReadAll(c)
			got <- all
			ended <- err
		},
	}
	t.Run("target ends", func(t *testing.T) {
		s, _ := one(t, handle["target ends"])
		all, err := io.ReadAll(dial(t, s.Server, "a"))
		if !bytes.Equal(all, sent) || err != nil {
			t.Errorf("%d of %d bytes arrived: %v", len(all), len(sent), err)
		}
	})
	t.Run("target fails", func(t *testing.T) {
		s, _ := one(t, handle["target fails"])
		if all, err := io.ReadAll(dial(t, s.Server, "a")); err == nil {
			t.Errorf("a connection that was reset after %d bytes has ended well", len(all))
		}
	})
	t.Run("server ends", func(t *testing.T) {
		s, _ := one(t, handle["server ends"])
		conn := dial(t, s.Server, "a")
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if all := <-got; !bytes.Equal(all, sent) {
			t.Errorf("%d of %d bytes arrived", len(all), len(sent))
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a closed connection is read")
		}
	})
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	s, _ := one(t, func(c net.Conn) { <-t.Context().Done() })
	conn := dial(t, s.Server, "a")
	conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("reading past the deadline: %v", err)
	}
	if _, err := io.Copy(conn, bytes.NewReader(make([]byte, 64<<20))); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("writing past the deadline: %v", err)
	}
}

// TestTargets: what is none of the node's costs its stream and not the tunnel.
func TestTargets(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	elsewhere := target(t, echo).String()
	run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo)}, s.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	open := dial(t, s.Server, "a")
	for _, to := range []string{elsewhere, "192.0.2.1:80", "kubelet:10250", "localhost:80"} {
		_, err := s.Dial(t.Context(), "a", "tcp", to)
		var no *server.TargetError
		if !errors.As(err, &no) || !no.Refused {
			t.Errorf("%s: got %v, want a refusal", to, err)
		}
	}
	if _, err := s.Dial(t.Context(), "a", "udp", "192.0.2.1:53"); err == nil {
		t.Error("UDP is carried")
	}
	mustEcho(t, open, []byte("still here"))
}

// TestPodsAndNode need an address that is not loopback.
func TestPodsAndNode(t *testing.T) {
	t.Parallel()
	var own netip.Addr
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			own = p.Addr()
		}
	}
	if !own.IsValid() {
		testneed.Missing(t, "an address that is not loopback's")
	}
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	there := targetAt(t, own.String(), echo)
	var asPod, asNode atomic.Bool
	run(t, Config{
		TLS: ca.config(ca.node("a")), Kubelet: target(t, echo),
		PodCIDRs: func() []netip.Prefix {
			if asPod.Load() {
				return []netip.Prefix{netip.PrefixFrom(own, own.BitLen())}
			}
			return nil
		},
		NodeIPs: func() []netip.Addr {
			if asNode.Load() {
				return []netip.Addr{own}
			}
			return nil
		},
	}, s.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	for _, allowed := range []*atomic.Bool{&asPod, &asNode} {
		if _, err := s.Dial(t.Context(), "a", "tcp", there.String()); err == nil {
			t.Fatal("connected to an address that is not the node's")
		}
		allowed.Store(true)
		conn, err := s.Dial(t.Context(), "a", "tcp", there.String())
		if err != nil {
			t.Fatal(err)
		}
		mustEcho(t, conn, []byte("hello"))
		conn.Close()
		_, err = s.Dial(t.Context(), "a", "tcp", netip.AddrPortFrom(own, 1).String())
		var no *server.TargetError
		if !errors.As(err, &no) || no.Refused {
			t.Errorf("a port without a listener: got %v", err)
		}
		allowed.Store(false)
	}
}

// TestServerReturns: the tunnel is there again soon after its server.
func TestServerReturns(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	first := ca.serve("127.0.0.1:0")
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo)}, first.addr)
	testwait.Until(t, "the tunnel", func() bool { return first.Has("a") })
	conn := dial(t, first.Server, "a")
	first.stop()
	if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the end of the tunnel reads like the end of the stream: %v", err)
	}
	testwait.Until(t, "loss", func() bool { return !tunnels.Status()[0].Up })
	second := ca.serve(first.addr)
	back := time.Now()
	testwait.Until(t, "the return", func() bool { return second.Has("a") })
	if took := time.Since(back); took > 3*time.Second {
		t.Errorf("the tunnel took %s to return", took)
	}
	mustEcho(t, dial(t, second.Server, "a"), []byte("hello"))
}

func TestServersComeAndGo(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	x, y := ca.serve("127.0.0.1:0"), ca.serve("127.0.0.1:0")
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo)}, x.addr)
	testwait.Until(t, "the tunnel to x", func() bool { return x.Has("a") })
	kept := dial(t, x.Server, "a")
	tunnels.SetServers([]string{x.addr, y.addr})
	testwait.Until(t, "the tunnel to y", func() bool { return y.Has("a") })
	mustEcho(t, dial(t, y.Server, "a"), []byte("hello"))
	mustEcho(t, kept, []byte("still here"))
	tunnels.SetServers([]string{y.addr})
	testwait.Until(t, "the end of the tunnel to x", func() bool { return !x.Has("a") })
	mustEcho(t, dial(t, y.Server, "a"), []byte("hello"))
	if status := tunnels.Status(); len(status) != 1 || status[0].Server != y.addr {
		t.Errorf("status is %+v", status)
	}
}

// TestAStrangerThatAnnouncesItself was away when the node started: it is dialed when it
// is there, not when its turn comes in an hour.
func TestAStrangerThatAnnouncesItself(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	known := ca.serve("127.0.0.1:0")
	var away atomic.Bool
	var asked atomic.Int32
	away.Store(true)
	stranger := ca.serve("127.0.0.1:0")
	dialer := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == stranger.addr {
			asked.Add(1)
			if away.Load() {
				return nil, errors.New("not there")
			}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	patient := hasty
	patient.firstDelay, patient.strangerDelay = time.Hour, 2*time.Hour
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo), Dial: dialer, timing: patient}, known.addr)
	testwait.Until(t, "the tunnel to the known one", func() bool { return known.Has("a") })
	tunnels.SetServers([]string{known.addr, stranger.addr})
	tunnels.Announced([]string{known.addr})
	testwait.Until(t, "the first attempt", func() bool { return asked.Load() > 0 })
	away.Store(false)
	tunnels.Announced([]string{known.addr})
	if time.Sleep(5 * hasty.maxDelay); asked.Load() != 1 || stranger.Has("a") {
		t.Fatalf("it was asked %d times: this test shows nothing", asked.Load())
	}
	tunnels.Announced([]string{known.addr, stranger.addr})
	testwait.Until(t, "the tunnel to who has announced itself", func() bool { return stranger.Has("a") })
	mustEcho(t, dial(t, stranger.Server, "a"), []byte("hello"))
	// What is up is not woken for the day when it is lost.
	testwait.Until(t, "both to be up", func() bool { return tunnels.Status()[0].Up && tunnels.Status()[1].Up })
	tunnels.Announced(nil)
	tunnels.Announced([]string{known.addr, stranger.addr})
	tunnels.mu.Lock()
	defer tunnels.mu.Unlock()
	for server, link := range tunnels.links {
		if len(link.woken) > 0 {
			t.Errorf("the tunnel to %s was woken", server)
		}
	}
}

// freezer forwards connections until it is told to stop, without closing them:
// what a link does that has died.
type freezer struct {
	addr   string
	frozen atomic.Bool
}

func newFreezer(t testing.TB, to string) *freezer {
	f := &freezer{}
	f.addr = target(t, func(in net.Conn) {
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		var both sync.WaitGroup
		both.Go(func() { f.forward(in, out); out.Close() })
		both.Go(func() { f.forward(out, in); in.Close() })
		both.Wait()
	}).String()
	return f
}

func (f *freezer) forward(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if f.frozen.Load() {
			continueWhileOpen(from, buf)
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// continueWhileOpen reads into nowhere.
func continueWhileOpen(from net.Conn, buf []byte) {
	for {
		if _, err := from.Read(buf); err != nil {
			return
		}
	}
}

func TestDeadLink(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	link := newFreezer(t, s.addr)
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo), timing: hasty}, link.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	conn := dial(t, s.Server, "a")
	mustEcho(t, conn, []byte("hello"))
	time.Sleep(2 * (hasty.readIdle + hasty.pingTimeout))
	if !tunnels.Status()[0].Up {
		t.Fatal("a link that is only silent is taken for a dead one")
	}
	link.frozen.Store(true)
	testwait.Until(t, "notice", func() bool { return !tunnels.Status()[0].Up })
	if got := tunnels.Status()[0].Error; got != errSilent.Error() {
		t.Errorf("the reason is %q", got)
	}
	link.frozen.Store(false)
	testwait.Until(t, "the return", func() bool { return tunnels.Status()[0].Up })
	testwait.Until(t, "a connection", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		again, err := s.Dial(ctx, "a", "tcp", tunnelwire.Kubelet)
		if err != nil {
			return false
		}
		defer again.Close()
		return echoes(again, []byte("again")) == nil
	})
}

// TestSlowReaders do not stop others, however many they are, in either
// direction, and get everything once they read.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	s, _ := one(t, echo)
	const slow = 40
	payload := random(8 << 20)
	var full sync.WaitGroup
	var conns [slow]net.Conn
	var written [slow]int
	for i := range slow {
		conns[i] = dial(t, s.Server, "a")
		full.Go(func() {
			// Nobody reads what comes back, so that soon nothing goes out.
			conns[i].SetWriteDeadline(time.Now().Add(time.Second))
			var err error
			if written[i], err = conns[i].Write(payload); err == nil {
				t.Error("a reader that does not read has taken everything")
			}
		})
	}
	full.Wait()
	mustEcho(t, dial(t, s.Server, "a"), payload)
	for i, conn := range conns {
		got := make([]byte, written[i])
		if _, err := io.ReadFull(conn, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, payload[:len(got)]) {
			t.Fatal("other bytes came back")
		}
	}
}

func TestManyStreams(t *testing.T) {
	t.Parallel()
	s, _ := one(t, echo)
	var all sync.WaitGroup
	for range 300 {
		all.Go(func() {
			conn, err := s.Dial(t.Context(), "a", "tcp", tunnelwire.Kubelet)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for range 3 {
				if err := echoes(conn, random(100_000)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// TestCertificateRotates: each dial uses the certificate of its time.
func TestCertificateRotates(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	first := ca.serve("127.0.0.1:0")
	var cert atomic.Pointer[tls.Certificate]
	use := func(c tls.Certificate) { cert.Store(&c) }
	use(ca.node("a"))
	run(t, Config{
		TLS:     func() (*tls.Config, error) { return ca.config(*cert.Load())() },
		Kubelet: target(t, echo),
	}, first.addr)
	testwait.Until(t, "the tunnel", func() bool { return first.Has("a") })
	use(ca.node("a"))
	first.stop()
	second := ca.serve(first.addr)
	testwait.Until(t, "the return", func() bool { return second.Has("a") })
	if got, want := second.seen.Load(), cert.Load().Leaf.SerialNumber.Int64(); got != want {
		t.Errorf("the server sees certificate %d, want %d", got, want)
	}
}

// TestName: a tunnel is that of the node whose certificate it was made with.
func TestName(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	tests := []struct {
		name string
		cert tls.Certificate
		want string
	}{
		{"not a node", ca.client("admin", "system:masters"), `403 Forbidden: only nodes have tunnels, and "admin" is not a node`},
		{"a node's name without its group", ca.client("system:node:a", "system:authenticated"), `403 Forbidden: only nodes have tunnels, and "system:node:a" is not a node`},
		{"a node's group without a name", ca.client("system:node:", user.NodesGroup), `403 Forbidden: only nodes have tunnels, and "system:node:" is not a node`},
		{"someone else's certificate", stranger.node("a"), "certificate"},
		{"no certificate", tls.Certificate{}, "401 Unauthorized: who are you"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := ca.serve("127.0.0.1:0")
			config := func() (*tls.Config, error) {
				c := &tls.Config{RootCAs: ca.pool()}
				if tt.cert.Leaf != nil {
					// GetClientCertificate sends it whoever is asked for.
					c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tt.cert, nil }
				}
				return c, nil
			}
			tunnels := run(t, Config{TLS: config, Kubelet: target(t, echo), timing: hasty}, s.addr)
			testwait.Until(t, "the refusal", func() bool { return strings.Contains(tunnels.Status()[0].Error, tt.want) })
			if s.Has("a") || s.Has("") {
				t.Error("has a tunnel")
			}
		})
	}
	t.Run("another node's name", func(t *testing.T) {
		t.Parallel()
		s := ca.serve("127.0.0.1:0")
		run(t, Config{TLS: ca.config(ca.node("b")), Kubelet: target(t, echo)}, s.addr)
		testwait.Until(t, "the tunnel", func() bool { return s.Has("b") })
		if _, err := s.Dial(t.Context(), "a", "tcp", tunnelwire.Kubelet); !errors.Is(err, server.ErrNoTunnel) {
			t.Errorf("node a is reached: %v", err)
		}
	})
}

// TestServerIsVerified: no tunnel to someone who only has the address.
func TestServerIsVerified(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t), newAuthority(t)
	s := stranger.serve("127.0.0.1:0")
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo), timing: hasty}, s.addr)
	testwait.Until(t, "the refusal", func() bool { return strings.Contains(tunnels.Status()[0].Error, "certificate") })
}

// TestSeveralTunnels of one node to one server live side by side, and the end of
// one is not that of the others.
func TestSeveralTunnels(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	old := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo)}, s.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	early := dial(t, s.Server, "a")
	young := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, func(c net.Conn) { io.WriteString(c, "young") })}, s.addr)
	testwait.Until(t, "the second tunnel", func() bool { return young.Status()[0].Up })
	testwait.Until(t, "the newest to be used", func() bool {
		conn := dial(t, s.Server, "a")
		conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
		got, _ := io.ReadAll(conn)
		return string(got) == "young"
	})
	young.SetServers(nil)
	testwait.Until(t, "the older to be used", func() bool { return echoes(dial(t, s.Server, "a"), []byte("old")) == nil })
	mustEcho(t, early, []byte("still here"))
	if !old.Status()[0].Up {
		t.Error("the older tunnel has ended")
	}
	s.Drop("a")
	testwait.Until(t, "the end of all", func() bool { _, err := early.Read(make([]byte, 1)); return err != nil })
}

// TestAddressThatLeadsNowhere: while there is a tunnel, an address by which none has
// ever come about is hardly tried; without one, it is again.
func TestAddressThatLeadsNowhere(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	var attempts atomic.Int32
	const nowhere = "192.0.2.1:6443"
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == nowhere {
			attempts.Add(1)
			return nil, errors.New("no route to host")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo), Dial: dial, timing: hasty}, s.addr, nowhere)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	// 20, 40, 80 ms and so on: the tenth pause takes ten seconds.
	time.Sleep(2 * time.Second)
	if n := attempts.Load(); n < 3 || n > 10 {
		t.Errorf("%d attempts beside a tunnel", n)
	}
	before := attempts.Load()
	tunnels.SetServers([]string{nowhere})
	testwait.Until(t, "attempts without a tunnel", func() bool { return attempts.Load() > before+5 })
}

// TestRedial has a tunnel made anew while the old one still works.
func TestRedial(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	tunnels := New(Config{TLS: ca.config(ca.node("till")), timing: hasty})
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = tunnels.Run(ctx, func() {}); close(ended) }()
	tunnels.SetServers([]string{s.addr})
	up := func() time.Time {
		t.Helper()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if all := tunnels.Status(); len(all) == 1 && all[0].Up {
				return all[0].Since
			}
		}
		t.Fatalf("no tunnel: %+v", tunnels.Status())
		return time.Time{}
	}
	first := up()
	tunnels.Redial()
	if second := up(); !second.After(first) {
		t.Error("the tunnel is the old one")
	}
	cancel()
	<-ended
}
