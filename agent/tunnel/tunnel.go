// Package tunnel keeps a connection from this node to every server, through which
// the servers reach its kubelet and its pods when they cannot dial the node.
// server/tunnel is the other end and explains why the tunnel is HTTP/2 with the roles
// exchanged; internal/wire/tunnelwire is the protocol of both.
//
// A server reaches this through a tunnel, and nothing else: the kubelet; TCP to pods
// in the node's own pod CIDRs; TCP to the node's own addresses, where its pods in
// the host's network are, and never loopback. The last is wider than it need be:
// which ports belong to such pods is not known here, and a server that may use
// the kubelet controls the node anyway. The rule keeps the server out of the rest of
// the node's network: somebody who may write Endpoints could otherwise use the API server
// to scan it.
//
// A tunnel that fails is dialed again, first after a quarter of a second and then at
// growing intervals of at most 10 s. A link that has died silently is noticed after at
// most 25 s. To a server that was never reached the intervals grow further while another
// tunnel is up: a server may be known by addresses that lead nowhere from here, and data
// over a mobile link costs money.
package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"brink/internal/lifecycle"
)

const (
	firstDelay = 500 * time.Millisecond
	maxDelay   = 10 * time.Second
	// unreachedDelay is maxDelay for a server that was never reached, while others are.
	// One that announces itself anew is dialed at once.
	unreachedDelay = 5 * time.Minute
	// stable is how long a tunnel must have lived for the next dial to come soon:
	// a server that accepts tunnels and ends them at once is not dialed without
	// pause.
	stable = 10 * time.Second
	// newReason is how long after the last line in the log another kind of reason for
	// the same failure gets one.
	newReason = time.Minute
)

// Config is what the tunnels of a node need. The functions are called at each
// use: certificates rotate, CIDRs come late and addresses change.
type Config struct {
	// TLS returns the client's side of TLS to servers: the node's certificate
	// and the CA. The server's name is ServerName, or "kubernetes" when that is
	// empty, whatever address is dialed.
	TLS func() (*tls.Config, error)
	// Kubelet is where the kubelet listens.
	Kubelet netip.AddrPort
	// PodCIDRs are those of this node.
	PodCIDRs func() []netip.Prefix
	// NodeIPs are the node's own addresses.
	NodeIPs func() []netip.Addr
	// Revision is the highest revision of the cluster's state that the node has seen,
	// 0 when it has seen none; nil tells servers nothing.
	Revision func() int64
	// Proof is noderights.Proof's for the certificate, "" when there is none; nil tells
	// servers nothing.
	Proof func() string
	// Dial connects to a server; nil is a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	timing timing // of tests; zero is the constants here
}

// timing are the intervals that tests shorten.
type timing struct {
	firstDelay, maxDelay, unreachedDelay, stable, newReason, readIdle, pingTimeout time.Duration
}

func (t timing) orDefaults() timing {
	if t != (timing{}) {
		return t
	}
	return timing{firstDelay, maxDelay, unreachedDelay, stable, newReason, readIdle, pingTimeout}
}

// Status is the tunnel to one server.
type Status struct {
	Server string // host:port
	Up     bool
	Since  time.Time // of Up
	Error  string    // why it is not up
}

// Tunnels is the node's tunnels, one a server.
type Tunnels struct {
	cfg Config

	mu        sync.Mutex      // guards what follows
	ctx       context.Context // of Run; nil before and after
	servers   []string
	announced []string // those that have announced themselves to the cluster
	links     map[string]*link
	running   sync.WaitGroup
}

// link is the tunnel to one server, up or not.
type link struct {
	tunnels *Tunnels
	server  string
	cancel  context.CancelFunc
	woken   chan struct{} // has room for one
	log     *slog.Logger

	mu     sync.Mutex // guards what follows
	status Status
	known  bool      // it was up once
	logged time.Time // when the last line was logged
	kind   failure   // which reason that line gave
}

// New returns tunnels to no servers.
func New(cfg Config) *Tunnels {
	cfg.timing = cfg.timing.orDefaults()
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{}).DialContext
	}
	return &Tunnels{cfg: cfg, links: map[string]*link{}}
}

// Run keeps tunnels until ctx is done. It is ready at once: a node must start while
// servers are away. It must be called once.
func (t *Tunnels) Run(ctx context.Context, ready func()) error {
	ready()
	t.mu.Lock()
	t.ctx = ctx
	t.matchLocked()
	t.mu.Unlock()
	<-ctx.Done()
	t.mu.Lock()
	t.ctx = nil // no link is added any more
	t.mu.Unlock()
	t.running.Wait()
	return nil
}

// SetServers sets the servers, each host:port. Tunnels to all others end, with what goes
// through them.
func (t *Tunnels) SetServers(servers []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.servers = slices.Clone(servers)
	t.matchLocked()
}

// Announced sets which of the servers of SetServers have announced themselves to the
// cluster. One that had not before has just started: it is dialed at once.
func (t *Tunnels) Announced(servers []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, server := range servers {
		if link := t.links[server]; link != nil && !slices.Contains(t.announced, server) {
			link.wake()
		}
	}
	t.announced = slices.Clone(servers)
}

// Redial replaces all tunnels, as after a change of the node's address: the old ones are
// dead, which both ends would notice only later.
func (t *Tunnels) Redial() {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := maps.Clone(t.links)
	for server, link := range before {
		link.cancel()
		delete(t.links, server)
	}
	t.matchLocked()
	for server, link := range before {
		if again := t.links[server]; again != nil && link.wasUp() {
			again.setKnown()
		}
	}
}

func (t *Tunnels) matchLocked() {
	if t.ctx == nil {
		return
	}
	for server, link := range t.links {
		if !slices.Contains(t.servers, server) {
			link.cancel()
			delete(t.links, server)
		}
	}
	for _, server := range t.servers {
		if t.links[server] == nil {
			t.startLocked(server)
		}
	}
}

func (t *Tunnels) startLocked(server string) {
	ctx, cancel := context.WithCancel(t.ctx)
	l := &link{
		tunnels: t,
		server:  server,
		cancel:  cancel,
		woken:   make(chan struct{}, 1),
		log:     lifecycle.Logger(t.ctx).With("server", server),
		status:  Status{Server: server, Since: time.Now(), Error: "not dialed yet"},
	}
	t.links[server] = l
	t.running.Go(func() { l.keepUp(ctx) })
}

// Status returns the tunnels in the order of SetServers.
func (t *Tunnels) Status() []Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Status
	for _, server := range t.servers {
		if link := t.links[server]; link != nil {
			out = append(out, link.current())
		}
	}
	return out
}

// keepUp dials again whenever the tunnel has ended.
func (l *link) keepUp(ctx context.Context) {
	timing := l.tunnels.cfg.timing
	delay := timing.firstDelay
	for {
		began := time.Now()
		err := l.serveOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		l.down(err)
		if time.Since(began) > timing.stable {
			delay = timing.firstDelay
		}
		woken := l.pause(ctx, jitter(delay))
		if ctx.Err() != nil {
			return
		}
		delay = min(2*delay, l.longest())
		if woken {
			delay = timing.firstDelay
		}
	}
}

// pause waits for delay. It ends early when the other tunnels end, because of which it is
// long, when ctx ends, and when it is woken, which it reports.
func (l *link) pause(ctx context.Context, delay time.Duration) (woken bool) {
	for until := time.Now().Add(delay); time.Now().Before(until); {
		select {
		case <-ctx.Done():
			return false
		case <-l.woken:
			return true
		case <-time.After(min(time.Until(until), l.tunnels.cfg.timing.maxDelay)):
		}
		if l.longest() < delay {
			break
		}
	}
	return false
}

// wake ends the pause before the next attempt. It does nothing to a tunnel that is up:
// when that is lost one day, the pause keeps many nodes from returning together.
func (l *link) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.status.Up {
		return
	}
	select {
	case l.woken <- struct{}{}:
	default:
	}
}

// wasUp reports whether the server was ever reached.
func (l *link) wasUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.known
}

// setKnown records that the server was reached before this link was made.
func (l *link) setKnown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known = true
}

// longest returns the longest interval between two attempts as things are now.
func (l *link) longest() time.Duration {
	timing := l.tunnels.cfg.timing
	isUp := func(s Status) bool { return s.Up }
	if !l.wasUp() && slices.ContainsFunc(l.tunnels.Status(), isUp) {
		return timing.unreachedDelay
	}
	return timing.maxDelay
}

// jitter keeps nodes that lost a server together from returning together.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// up records that the tunnel is up. What has woken it while it was dialed is done with.
func (l *link) up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.woken:
	default:
	}
	l.status, l.known = Status{Server: l.server, Up: true, Since: time.Now()}, true
	l.logged, l.kind = time.Now(), ""
	l.log.Info("tunnel is up")
}

// down records that the tunnel is not up. It logs the change and, some time later,
// another kind of reason.
func (l *link) down(err error) {
	kind := kindOf(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	wasUp, first := l.status.Up, l.logged.IsZero()
	if wasUp || first {
		l.status.Since = time.Now()
	}
	l.status.Up, l.status.Error = false, err.Error()
	switch {
	case wasUp:
		l.log.Warn("tunnel is lost, dialing again", "error", err)
	case first, kind != l.kind && time.Since(l.logged) > l.tunnels.cfg.timing.newReason:
		l.log.Warn("tunnel cannot be made, retrying", "error", err)
	default:
		l.log.Debug("tunnel cannot be made", "error", err)
		return
	}
	l.logged, l.kind = time.Now(), kind
}

func (l *link) current() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// failure is a kind of reason for which a tunnel is not up.
type failure string

const (
	unreachable failure = "unreachable"
	untrusted   failure = "untrusted"
	refused     failure = "refused"
)

func kindOf(err error) failure {
	var answer *answerError
	var verification *tls.CertificateVerificationError
	switch {
	case errors.As(err, &answer):
		return refused
	case errors.As(err, &verification):
		return untrusted
	}
	return unreachable
}
