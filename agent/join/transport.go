package join

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/util/connrotation"

	"brink/agent/servers"
)

// transport carries the requests of all of the node's parts to the API server. It
// replaces its connections when the certificate is renewed.
type transport struct {
	pool    *servers.Pool
	tls     func() *tls.Config
	refusal *refusal
	prover  *prover

	mu      sync.Mutex
	current *http.Transport
	conns   *connrotation.Dialer // those of current
}

func newTransport(pool *servers.Pool, config func() *tls.Config, r *refusal, p *prover) *transport {
	t := &transport{pool: pool, tls: config, refusal: r, prover: p}
	t.current, t.conns = t.make()
	return t
}

const (
	// silence is after how long without a byte a connection gets a ping, and pingTimeout
	// how long after that it is dead. A node that has another server must be back well
	// before it counts as NotReady, after 50 s; upstream's 30 and 15 leave no time. The
	// heartbeat of every ten seconds comes before a ping is needed.
	silence     = 12 * time.Second
	pingTimeout = 10 * time.Second
)

// make builds a transport whose connections the pool makes, TLS included: the pool has
// to know of a server with which TLS fails. HTTP/2 needs a *tls.Conn, so the dialer that
// can close all connections is below it.
func (t *transport) make() (*http.Transport, *connrotation.Dialer) {
	conns := connrotation.NewDialer(servers.DialPlain)
	transport := utilnet.SetTransportDefaults(&http.Transport{
		TLSClientConfig:     t.tls(),
		Proxy:               noProxy,
		MaxIdleConnsPerHost: 25,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: pingTimeout},
	})
	dialer := servers.Dialer{Dial: conns.DialContext, TLS: transport.TLSClientConfig} // which offers HTTP/2 by now
	transport.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := t.pool.Dial(ctx, dialer)
		if err != nil {
			return nil, err // not a nil *tls.Conn
		}
		return conn, nil
	}
	return transport, conns
}

// noProxy ignores the proxies of the environment: they are for pulling images, and the
// pool makes the connections here.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.refusal.hold(req.Context()); err != nil {
		if req.Body != nil {
			req.Body.Close() // a RoundTripper must, on errors too
		}
		return nil, err
	}
	t.mu.Lock()
	current := t.current
	t.mu.Unlock()
	resp, err := current.RoundTrip(t.prover.add(req))
	if err == nil {
		t.refusal.note(resp)
	}
	return resp, err
}

// renew makes new requests use new connections, which show the present certificate. Old
// ones are closed when the last request on them ends.
func (t *transport) renew() {
	t.mu.Lock()
	old := t.current
	t.current, t.conns = t.make()
	t.mu.Unlock()
	old.CloseIdleConnections()
}

// cut closes all connections: they, or their server, may have died with a lost link.
func (t *transport) cut() {
	t.pool.Suspect()
	t.mu.Lock()
	conns := t.conns
	t.mu.Unlock()
	conns.CloseAll()
}
