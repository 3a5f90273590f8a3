package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"brink/internal/wire/noderights"
	"brink/internal/wire/tunnelwire"
)

const (
	// connectTimeout bounds dialing, TLS and the server's answer together.
	connectTimeout = 15 * time.Second
	// readIdle is how long a tunnel may be silent before this end sends a ping. It
	// also keeps NAT from forgetting the connection: the shortest timeout met in
	// practice is 30 s.
	readIdle = 15 * time.Second
	// pingTimeout is how long the answer to a ping may take.
	pingTimeout = 10 * time.Second
	// serverName is in the certificate of every API server, whatever its address.
	serverName = "kubernetes"
)

// answerError is the answer of a server that refuses the tunnel.
type answerError struct {
	status string
	reason string
}

func (e *answerError) Error() string {
	return fmt.Sprintf("the server answers %s: %s", e.status, e.reason)
}

var errSilent = errors.New("the server does not answer any more")

// serveOnce makes the tunnel and serves it until it ends. The error is the reason for
// that.
func (l *link) serveOnce(ctx context.Context) error {
	conn, err := l.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	l.up()
	l.serve(ctx, conn)
	return conn.reason()
}

// connect dials the server and upgrades the connection to a tunnel.
func (l *link) connect(ctx context.Context) (*tunnelConn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	config, err := l.tls()
	if err != nil {
		return nil, err
	}
	raw, err := l.tunnels.cfg.Dial(ctx, "tcp", l.server)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	reader, err := handshake(ctx, conn, l.tunnels.headers())
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer within %s", connectTimeout)
		}
		return nil, err
	}
	return &tunnelConn{Conn: conn, reader: reader}, nil
}

// tls returns the configuration with the present certificate, which rotates.
func (l *link) tls() (*tls.Config, error) {
	config, err := l.tunnels.cfg.TLS()
	if err != nil {
		return nil, fmt.Errorf("preparing TLS: %w", err)
	}
	config = config.Clone()
	config.NextProtos = []string{"http/1.1"} // HTTP/2 has no upgrade
	if config.ServerName == "" {
		config.ServerName = serverName
	}
	return config, nil
}

// headers returns the header lines with the revision that the node has seen and the proof
// for its certificate.
func (t *Tunnels) headers() string {
	var seen int64
	if t.cfg.Revision != nil {
		seen = t.cfg.Revision()
	}
	out := fmt.Sprintf("%s: %d\r\n", tunnelwire.Revision, seen)
	if t.cfg.Proof == nil {
		return out
	}
	if proof := t.cfg.Proof(); proof != "" {
		out += fmt.Sprintf("%s: %s\r\n", noderights.Proof, proof)
	}
	return out
}

// handshake asks for the upgrade. The reader may hold the first bytes of the tunnel.
func handshake(ctx context.Context, conn *tls.Conn, headers string) (*bufio.Reader, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	const question = "GET " + tunnelwire.Path + " HTTP/1.1\r\nHost: " + serverName + "\r\nUser-Agent: brink\r\nConnection: Upgrade\r\nUpgrade: " + tunnelwire.Protocol + "\r\n"
	if _, err := fmt.Fprintf(conn, "%s%s\r\n", question, headers); err != nil {
		return nil, err
	}
	reader := bufio.NewReaderSize(conn, 4<<10)
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the server's answer: %w", err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(resp.Header.Get("Upgrade"), tunnelwire.Protocol) {
		return nil, &answerError{status: resp.Status, reason: reasonOf(resp.Body)}
	}
	return reader, nil
}

// reasonOf returns the text of an answer, or the message in it when it is a Status of the
// API server.
func reasonOf(body io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(body, 16<<10))
	var status struct{ Message string }
	if json.Unmarshal(text, &status) == nil && status.Message != "" {
		return status.Message
	}
	return strings.TrimSpace(string(text[:min(len(text), tunnelwire.MaxReason)]))
}

// tunnelConn is the connection after the upgrade. It remembers why it ended.
type tunnelConn struct {
	net.Conn
	reader *bufio.Reader // nil once it is empty
	failed atomic.Pointer[error]
}

func (c *tunnelConn) Read(p []byte) (int, error) {
	if c.reader != nil {
		if c.reader.Buffered() > 0 {
			return c.reader.Read(p)
		}
		c.reader = nil
	}
	n, err := c.Conn.Read(p)
	if err != nil {
		c.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// reason returns why the tunnel has ended. If it was closed at this end, a ping was not
// answered.
func (c *tunnelConn) reason() error {
	err := c.failed.Load()
	switch {
	case err == nil || errors.Is(*err, net.ErrClosed):
		return errSilent
	case errors.Is(*err, io.EOF):
		return errors.New("the server has ended it")
	}
	return *err
}

// serve answers the server's streams until the connection ends.
func (l *link) serve(ctx context.Context, conn *tunnelConn) {
	timing := l.tunnels.cfg.timing
	server := &http2.Server{
		MaxConcurrentStreams:         tunnelwire.MaxStreams,
		MaxReadFrameSize:             tunnelwire.FrameSize,
		MaxUploadBufferPerStream:     tunnelwire.StreamWindow,
		MaxUploadBufferPerConnection: tunnelwire.ConnectionWindow,
		ReadIdleTimeout:              timing.readIdle,
		PingTimeout:                  timing.pingTimeout,
	}
	server.ServeConn(conn, &http2.ServeConnOpts{
		Context:    ctx,
		BaseConfig: &http.Server{ErrorLog: log.New(io.Discard, "", 0)}, // link.down logs what matters
		Handler:    http.HandlerFunc(l.stream),
	})
}
