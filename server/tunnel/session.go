package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"brink/internal/wire/tunnelwire"
)

const (
	// readIdle is how long a tunnel may be silent before this end sends a ping. Agents
	// send theirs after 15 s, so this end sends none while the agent lives.
	readIdle = 20 * time.Second
	// pingTimeout is how long the answer to a ping may take. A link is found dead 30 s
	// after the last sign of life.
	pingTimeout = 10 * time.Second
	// closeGrace is how long a closed connection may take to deliver what was written to
	// it.
	closeGrace = 10 * time.Second
)

// newTransport returns what makes this end of tunnels. It does not hold connections.
func newTransport(readIdle, pingTimeout time.Duration) *http2.Transport {
	t, err := http2.ConfigureTransports(&http.Transport{
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: tunnelwire.StreamWindow,
			MaxReadFrameSize:          tunnelwire.FrameSize,
			// Wait while a tunnel has its maximum of streams; there is no other.
			StrictMaxConcurrentRequests: true,
			SendPingTimeout:             readIdle,
			PingTimeout:                 pingTimeout,
		},
		DisableCompression: true,
	})
	if err != nil {
		panic(err) // only for a transport that already speaks HTTP/2
	}
	return t
}

// session is one tunnel.
type session struct {
	conn   *closingConn
	client *http2.ClientConn
	from   netip.Addr // the other end, or the router that translates its address
}

func newSession(transport *http2.Transport, conn net.Conn) (*session, error) {
	c := &closingConn{Conn: conn, done: make(chan struct{})}
	client, err := transport.NewClientConn(c)
	if err != nil {
		c.Close()
		return nil, err
	}
	from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	return &session{conn: c, client: client, from: from.Addr().Unmap()}, nil
}

// usable reports whether the tunnel takes streams: it is not known to have ended.
func (s *session) usable() bool {
	select {
	case <-s.conn.done:
		return false
	default:
		return s.client.CanTakeNewRequest()
	}
}

// closingConn closes done when it is closed. An http2.ClientConn closes its connection
// however it ends, and has no other way to report that.
type closingConn struct {
	net.Conn
	once sync.Once
	done chan struct{}
}

func (c *closingConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return c.Conn.Close()
}

// TargetError is a node's answer that it does not connect to a target.
type TargetError struct {
	Refused bool   // the target is not the node's; else the node could not reach it
	Reason  string // the node's text
}

func (e *TargetError) Error() string { return e.Reason }

// dial opens a stream to target. ctx bounds the dialing, not the connection.
func (s *session) dial(ctx context.Context, target string) (net.Conn, error) {
	lasting, cancel := context.WithCancelCause(context.Background())
	dialing := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	up, body := net.Pipe()
	req := &http.Request{
		Method: http.MethodConnect,
		URL:    &url.URL{Scheme: "http", Host: target},
		Host:   target,
		Header: http.Header{},
		Body:   body,
	}
	resp, err := s.client.RoundTrip(req.WithContext(lasting))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = targetError(resp)
	}
	if !dialing() && err == nil {
		err = context.Cause(ctx)
		resp.Body.Close()
	}
	if err != nil {
		up.Close()
		cancel(err)
		return nil, err
	}
	down, pump := net.Pipe()
	c := &conn{Conn: down, up: up, cancel: cancel, target: target}
	go c.pump(resp.Body, pump)
	return c, nil
}

func targetError(resp *http.Response) error {
	defer resp.Body.Close()
	reason, _ := io.ReadAll(io.LimitReader(resp.Body, tunnelwire.MaxReason))
	text := strings.TrimSpace(string(reason))
	switch resp.StatusCode {
	case tunnelwire.StatusRefused, tunnelwire.StatusUnreachable:
		return &TargetError{Refused: resp.StatusCode == tunnelwire.StatusRefused, Reason: text}
	}
	return fmt.Errorf("the tunnel's other end answers %s: %s", resp.Status, text)
}

// conn is one connection through a tunnel. It reads from one pipe and writes to another:
// pipes have deadlines and streams of HTTP/2 do not. There are two of them because the body
// of a request is closed as soon as the answer is complete, when the last bytes of the
// answer may not have been read.
type conn struct {
	net.Conn // what comes from the node
	up       net.Conn
	cancel   context.CancelCauseFunc
	target   string

	mu     sync.Mutex
	err    error // the error at the end of reading, nil for an ordinary end
	ended  bool  // no more comes from the node
	closed *time.Timer
}

// pump copies what comes from the node until there is no more.
func (c *conn) pump(from io.ReadCloser, to net.Conn) {
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, from, make([]byte, tunnelwire.FrameSize))
	c.mu.Lock()
	c.err, c.ended = err, true
	if c.closed != nil {
		c.closed.Stop()
	}
	c.mu.Unlock()
	to.Close()
	from.Close()
	c.up.Close() // when one direction ends, both do
	c.cancel(nil)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			err = fmt.Errorf("tunnel to %s: %w", c.target, c.err)
		}
	}
	return n, err
}

func (c *conn) Write(p []byte) (int, error) { return c.up.Write(p) }

// Close gives what was written closeGrace to arrive.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return net.ErrClosed
	}
	c.closed = time.AfterFunc(closeGrace, func() { c.cancel(os.ErrDeadlineExceeded) })
	if c.ended {
		c.closed.Stop()
	}
	c.up.Close()
	return c.Conn.Close()
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetWriteDeadline(t time.Time) error { return c.up.SetWriteDeadline(t) }

func (c *conn) LocalAddr() net.Addr  { return addr("tunnel") }
func (c *conn) RemoteAddr() net.Addr { return addr(c.target) }

// addr is the text of a target.
type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }
