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
	pool *servers.Pool
	tls  func() *tls.Config

	mu      sync.Mutex
	current *http.Transport
	conns   *connrotation.Dialer // those of current
}

func newTransport(pool *servers.Pool, config func() *tls.Config) *transport {
	t := &transport{pool: pool, tls: config}
	t.current, t.conns = t.make()
	return t
}

func (t *transport) make() (*http.Transport, *connrotation.Dialer) {
	conns := connrotation.NewDialer(func(ctx context.Context, _, _ string) (net.Conn, error) { return t.pool.Dial(ctx) })
	return utilnet.SetTransportDefaults(&http.Transport{
		DialContext:         conns.DialContext,
		TLSClientConfig:     t.tls(),
		TLSHandshakeTimeout: 10 * time.Second,
		Proxy:               noProxy,
		MaxIdleConnsPerHost: 25,
	}), conns
}

// noProxy keeps proxies from the environment out: they are for pulling images, and
// connections here are the pool's.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil }

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	current := t.current
	t.mu.Unlock()
	return current.RoundTrip(req)
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

// cut closes all connections: they may have died with a lost link.
func (t *transport) cut() {
	t.mu.Lock()
	conns := t.conns
	t.mu.Unlock()
	conns.CloseAll()
}
