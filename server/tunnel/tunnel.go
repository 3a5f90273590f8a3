// Package tunnel lets the API server reach nodes that it cannot dial: behind NAT, a
// firewall or a mobile link. Each agent dials the server and keeps the connection, and the
// API server reaches the node's kubelet and pods through it, see Server.DialKubelet and
// Server.DialPod. agent/tunnel is the other end, internal/wire/tunnelwire their protocol.
//
// A tunnel is HTTP/2 with the roles reversed: the server is its client, and each connection
// to a target is a CONNECT stream. Streams, flow control that keeps a slow reader from
// stopping others, pings that find a dead link, a refusal that costs one stream and not the
// tunnel: HTTP/2 has all of that, and it is in the binary already because Kubernetes speaks
// it. The server never accepts streams, so an agent cannot dial anything through its tunnel.
//
// Given up:
//   - rancher/remotedialer. Its dead link takes 60 s to notice and its pings are
//     sent every 5 s, both constants; it buffers up to 4 MB for a reader that does
//     not read; a deadline on its connections does not end a waiting Read, and the
//     race detector reports them.
//   - konnectivity. It is a second server beside the API server, with a port,
//     certificates and gRPC of its own.
//   - tunnels that name their node themselves. The name is that of the user whom the
//     API server has authenticated.
//
// Measured with both ends in one process: an idle tunnel sends 156 bytes a minute each way
// inside TCP, in four segments, and has 52 kB of heap and 28 kB of stacks, TLS included.
// Making one takes 2.3 kB up and 2.1 kB down.
//
// A node may have several tunnels to one server: the agent may know the server by two
// addresses, and this end may notice a lost connection later than the agent. All are used;
// the newest is tried first.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"k8s.io/apiserver/pkg/endpoints/request"
	corelisters "k8s.io/client-go/listers/core/v1"

	"brink/internal/wire/nodeuser"
	"brink/internal/wire/tunnelwire"
)

// ComponentName is the server's side of tunnels in `brink status` and the log.
const ComponentName = "tunnel-server"

// maxSessions is how many tunnels a node has at most; one more ends the oldest. Without it
// a machine that dials all the time would use memory without bound.
const maxSessions = 8

// ErrNoTunnel is returned by Dial for a node without a tunnel.
var ErrNoTunnel = errors.New("it has no tunnel to this server")

// Config is what a Server has to know.
type Config struct {
	// OwnNode is the node in this process: it and its pods are dialed directly.
	// Empty when there is none.
	OwnNode string
	// OwnIPs are the server's own addresses, whether it is a node or not. No claim of
	// another node changes that.
	OwnIPs []netip.Addr
	// OwnAPI is where this server's API is, by TLS.
	OwnAPI netip.AddrPort
	// InNetwork reports whether this server reaches an address without a router; nil means
	// none.
	InNetwork func(netip.Addr) bool
	// IsAgent reports whether a node has joined as an agent; nil means none.
	IsAgent func(node string) bool
	// ClusterCIDRs are the prefixes of all pods. Without any, every prefix of a node
	// counts.
	ClusterCIDRs []netip.Prefix
	// Witness is told which revision of the cluster's state a node has seen, before its
	// tunnel is accepted. It must not block; nil ignores revisions.
	Witness func(node string, revision int64)
	// Patience is how long a connection waits for the tunnel of a node without one:
	// agents are back within seconds of a server's restart. Zero is 5 s.
	Patience time.Duration
}

// Server has the tunnels of all nodes to this server.
type Server struct {
	cfg       Config
	transport *http2.Transport

	mu       sync.Mutex             // guards what follows
	nodes    corelisters.NodeLister // nil until Use
	pods     corelisters.PodLister  // as nodes
	sessions map[string][]*session  // by node, oldest first
	arrival  chan struct{}          // closed and replaced when a session is added
	closed   bool
}

// New returns a Server without tunnels. It starts no goroutines.
func New(cfg Config) *Server {
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Second
	}
	return &Server{
		cfg:       cfg,
		transport: newTransport(readIdle, pingTimeout),
		sessions:  map[string][]*session{},
		arrival:   make(chan struct{}),
	}
}

// ServeHTTP accepts a node's tunnel and returns when the tunnel ends. It must be behind the
// API server's authentication, at a path whose requests may last.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, err := nodeOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	if r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), tunnelwire.Protocol) {
		w.Header().Set("Upgrade", tunnelwire.Protocol)
		w.Header().Set("Connection", "Upgrade")
		http.Error(w, "this is where nodes keep their tunnels", http.StatusUpgradeRequired)
		return
	}
	if s.isClosed() {
		http.Error(w, "this server is stopping", http.StatusServiceUnavailable)
		return
	}
	log := slog.With("component", ComponentName, "node", node, "from", r.RemoteAddr)
	if seen, err := strconv.ParseInt(r.Header.Get(tunnelwire.Revision), 10, 64); err == nil && seen > 0 && s.cfg.Witness != nil {
		s.cfg.Witness(node, seen)
	}
	conn, err := upgrade(w)
	if err != nil {
		log.Debug("a tunnel did not come about", "error", err)
		return
	}
	defer conn.Close()
	session, err := newSession(s.transport, conn)
	if err != nil {
		log.Debug("a tunnel did not come about", "error", err)
		return
	}
	if !s.add(node, session) {
		return
	}
	defer s.remove(node, session)
	// The node may lose its rights before the tunnel ends.
	defer context.AfterFunc(r.Context(), func() { session.conn.Close() })()
	log.Debug("tunnel is up")
	<-session.conn.done
	log.Debug("tunnel has ended")
}

// nodeOf returns the name of the node that has made the request.
func nodeOf(r *http.Request) (string, error) {
	u, ok := request.UserFrom(r.Context())
	if !ok {
		return "", errors.New("only nodes have tunnels")
	}
	name, ok := nodeuser.Node(u.GetName())
	if !ok || name == "" || !slices.Contains(u.GetGroups(), nodeuser.Group) {
		return "", fmt.Errorf("only nodes have tunnels, and %q is not a node", u.GetName())
	}
	return name, nil
}

// upgrade takes the connection over from the HTTP server.
func upgrade(w http.ResponseWriter) (net.Conn, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "a tunnel needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return nil, err
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		conn.Close()
		return nil, fmt.Errorf("%d bytes came before the answer", n)
	}
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + tunnelwire.Protocol + "\r\n\r\n"
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte(answer)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// add reports whether the tunnel was accepted: a closed Server accepts none.
func (s *Server) add(node string, added *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	list := append(s.sessions[node], added)
	if len(list) > maxSessions {
		list[0].conn.Close()
		list = list[1:]
	}
	s.sessions[node] = list
	close(s.arrival)
	s.arrival = make(chan struct{})
	return true
}

func (s *Server) remove(node string, removed *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(s.sessions[node]), func(other *session) bool { return other == removed })
	if len(list) == 0 {
		delete(s.sessions, node)
		return
	}
	s.sessions[node] = list
}

// Sources returns the addresses from which a node's tunnels come: its own, or that of its
// site's router where addresses are translated. They are the only evidence for what a node
// says about its addresses.
func (s *Server) Sources(node string) []netip.Addr {
	list, _ := s.live(node)
	var from []netip.Addr
	for _, session := range list {
		if session.from.IsValid() && !slices.Contains(from, session.from) {
			from = append(from, session.from)
		}
	}
	return from
}

// live returns a node's usable tunnels, newest first, and a channel that is closed when any
// node gets a new one.
func (s *Server) live(node string) ([]*session, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*session
	for _, session := range slices.Backward(s.sessions[node]) {
		if session.usable() {
			list = append(list, session)
		}
	}
	return list, s.arrival
}

// Has reports whether a node has a tunnel to this server.
func (s *Server) Has(node string) bool {
	list, _ := s.live(node)
	return len(list) > 0
}

// Drop ends all tunnels of a node, for when it is deleted.
func (s *Server) Drop(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.sessions[node] {
		session.conn.Close()
	}
}

// Close ends all tunnels and accepts no more.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, list := range s.sessions {
		for _, session := range list {
			session.conn.Close()
		}
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Run is ready at once and ends all tunnels when ctx is done.
func (s *Server) Run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	s.Close()
	return nil
}

// Dial connects to a target through a node's tunnel: tunnelwire.Kubelet, or the address and
// port of one of its pods or of the node itself. The node decides what it connects to; a
// TargetError is its refusal. For a node without a tunnel Dial returns ErrNoTunnel at once.
func (s *Server) Dial(ctx context.Context, node, network, target string) (net.Conn, error) {
	if !strings.HasPrefix(network, "tcp") {
		return nil, fmt.Errorf("a tunnel carries TCP, not %s", network)
	}
	list, _ := s.live(node)
	err := ErrNoTunnel
	for _, session := range list {
		var conn net.Conn
		if conn, err = session.dial(ctx, target); err == nil {
			return conn, nil
		}
		if target := (*TargetError)(nil); errors.As(err, &target) || ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, err
}

// await waits until a node has a tunnel or ctx is done.
func (s *Server) await(ctx context.Context, node string) error {
	for {
		list, arrival := s.live(node)
		if len(list) > 0 {
			return nil
		}
		select {
		case <-arrival:
		case <-ctx.Done():
			return ErrNoTunnel
		}
	}
}
