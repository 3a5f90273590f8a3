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

// transport is the connection of a node's parts to the API server, which changes
// under them when the certificate does.
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
	// silence on a connection calls for a ping, pingTimeout later it is dead. A node
	// that has another server must be back with time to spare before it is NotReady,
	// after 50 s; upstream's 30 and 15 leave none. The heartbeat of every ten seconds
	// comes before a ping is needed.
	silence     = 12 * time.Second
	pingTimeout = 10 * time.Second
)

// make builds a transport whose connections are the pool's, TLS included: the pool
// has to know of a server that does not get that far. HTTP/2 needs a *tls.Conn, so
// what is kept to be cut lies below it.
func (t *transport) make() (*http.Transport, *connrotation.Dialer) {
	conns := connrotation.NewDialer(servers.DialPlain)
	transport := utilnet.SetTransportDefaults(&http.Transport{
		TLSClientConfig:     t.tls(),
		Proxy:               noProxy,
		MaxIdleConnsPerHost: 25,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: pingTimeout},
	})
	way := servers.Way{Dial: conns.DialContext, TLS: transport.TLSClientConfig} // it knows of HTTP/2 by now
	transport.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := t.pool.Dial(ctx, way)
		if err != nil {
			return nil, err // not a nil *tls.Conn
		}
		return conn, nil
	}
	return transport, conns
}

// noProxy keeps proxies from the environment out: they are for pulling images, and
// connections here are the pool's.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := t.refusal.hold(req.Context()); err != nil {
		if req.Body != nil {
			req.Body.Close() // which a RoundTripper owes on errors too
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

// renew lets new requests use new connections, which show the certificate of
// now. Old ones are closed when the last request on them ends.
func (t *transport) renew() {
	t.mu.Lock()
	old := t.current
	t.current, t.conns = t.make()
	t.mu.Unlock()
	old.CloseIdleConnections()
}

// cut closes all connections: they may have died with a lost link, or their server
// with them.
func (t *transport) cut() {
	t.pool.Suspect()
	t.mu.Lock()
	conns := t.conns
	t.mu.Unlock()
	conns.CloseAll()
}
