package controlplane

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// directly keeps connections to nodes and pods from going through a proxy of the
// environment. Kubelets are addressed by the names of their nodes, which cannot be listed in
// NO_PROXY before the nodes exist, and upstream builds the transport to kubelets without an
// option for no proxy. But the transport dials by our function: when it dials the proxy, the
// answer to its CONNECT comes from here, and it gets a connection to the target itself.
//
// With a proxy by TLS or SOCKS a connection does not begin with CONNECT. Kubelets are then
// reached only if NO_PROXY has the names of their nodes.
func directly(dial dialFunc) dialFunc {
	proxy := proxyAddress()
	if proxy == "" {
		return dial
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != proxy {
			return dial(ctx, network, address)
		}
		return &connecting{dial: func(target string) (net.Conn, error) { return dial(ctx, network, target) }}, nil
	}
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// proxyAddress returns the address of the proxy that net/http dials for a name which is not
// in NO_PROXY, "" when there is none that takes CONNECT.
func proxyAddress() string {
	stranger := &http.Request{URL: &url.URL{Scheme: "https", Host: "node.invalid"}}
	proxy, err := http.ProxyFromEnvironment(stranger)
	if err != nil || proxy == nil || proxy.Scheme != "http" {
		return ""
	}
	if proxy.Port() == "" {
		return net.JoinHostPort(proxy.Hostname(), "80")
	}
	return proxy.Host
}

// connecting answers a CONNECT request, and is then the connection to the request's target.
type connecting struct {
	dial    func(target string) (net.Conn, error)
	request []byte // the part that was written so far
	answer  bytes.Reader

	mu     sync.Mutex
	target net.Conn // nil until the request is complete
	closed bool
}

var (
	endOfHeader = []byte("\r\n\r\n")
	connected   = []byte("HTTP/1.1 200 Connection established\r\n\r\n")
)

// maxConnect bounds the bytes of a request.
const maxConnect = 64 << 10

func (c *connecting) Write(b []byte) (int, error) {
	if target := c.current(); target != nil {
		return target.Write(b)
	}
	c.request = append(c.request, b...)
	switch {
	case len(c.request) > maxConnect:
		return 0, errors.New("the request for a connection is too long")
	case !bytes.HasSuffix(c.request, endOfHeader):
		return len(b), nil
	}
	if err := c.connect(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// connect dials the target of the request.
func (c *connecting) connect() error {
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(c.request)))
	if err != nil {
		return err
	}
	if req.Method != http.MethodConnect {
		return fmt.Errorf("%s through a proxy inside of the cluster", req.Method)
	}
	target, err := c.dial(req.Host)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		target.Close()
		return net.ErrClosed
	}
	c.request = nil
	c.answer.Reset(connected)
	c.target = target
	return nil
}

func (c *connecting) Read(b []byte) (int, error) {
	target := c.current()
	switch {
	case target == nil: // nobody reads before the request is written
		return 0, errors.New("read before a request was written")
	case c.answer.Len() > 0:
		return c.answer.Read(b)
	}
	return target.Read(b)
}

func (c *connecting) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.target == nil {
		return nil
	}
	return c.target.Close()
}

func (c *connecting) current() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.target
}

// withTarget calls f with the connection to the target, if there is one yet. Deadlines are
// set later, by the protocol over the connection.
func (c *connecting) withTarget(f func(net.Conn) error) error {
	if target := c.current(); target != nil {
		return f(target)
	}
	return nil
}

func (c *connecting) SetDeadline(t time.Time) error {
	return c.withTarget(func(target net.Conn) error { return target.SetDeadline(t) })
}

func (c *connecting) SetReadDeadline(t time.Time) error {
	return c.withTarget(func(target net.Conn) error { return target.SetReadDeadline(t) })
}

func (c *connecting) SetWriteDeadline(t time.Time) error {
	return c.withTarget(func(target net.Conn) error { return target.SetWriteDeadline(t) })
}

func (c *connecting) LocalAddr() net.Addr {
	if target := c.current(); target != nil {
		return target.LocalAddr()
	}
	return &net.TCPAddr{}
}

func (c *connecting) RemoteAddr() net.Addr {
	if target := c.current(); target != nil {
		return target.RemoteAddr()
	}
	return &net.TCPAddr{}
}
