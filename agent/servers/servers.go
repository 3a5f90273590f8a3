// Package servers connects an agent to the control plane, through any server that it
// knows: the one that it was given and those that the cluster announces. It remembers the
// latter on disk, so that an agent that starts while the server it was given is away finds
// the others.
//
// Decisions:
//   - A server is chosen for a connection, not for a request: all of a node's
//     requests and watches share one HTTP/2 connection. The choice is random, so
//     that agents spread over the servers.
//   - One that failed is tried last for a while. There are no probes: a connection
//     that is needed is the probe, and costs nothing while all is well. TLS is part
//     of it: what listens there may not be, or no longer be, a server.
//   - While no server answers, callers that want a connection wait for one instead
//     of failing: Kubernetes' watches back off up to a minute when they are
//     refused, and a node has to be back within seconds of its server. One
//     goroutine retries for all of them.
//   - There is no local port. k3s runs a load balancer on loopback for components
//     that take an address. Here they take a function that dials.
package servers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"brink/internal/atomicfile"
)

// component names this package in the log. It runs in that of whoever dials.
const component = "servers"

const (
	// dialTimeout is how long one server may take to accept a connection before the
	// next is tried, shakeTimeout how long TLS may take then.
	dialTimeout  = 5 * time.Second
	shakeTimeout = 5 * time.Second
	// shunned is how long a server that failed is tried last.
	shunned = 30 * time.Second
	// keepAlive detects a dead peer while nothing is sent.
	keepAlive = 15 * time.Second
	// While no server answers, all are tried every firstPause to longestPause,
	// and no caller waits longer than patience.
	firstPause   = 200 * time.Millisecond
	longestPause = 3 * time.Second
	patience     = time.Minute
)

// Pool is the servers that an agent knows, each "host:port".
type Pool struct {
	given string
	file  string
	dial  func(ctx context.Context, dialer Dialer, server string) (*tls.Conn, error)

	mu     sync.Mutex
	known  []string // announced by the cluster
	failed map[string]time.Time
	last   string  // the last one that was connected to
	outage *outage // nil while servers answer
}

// Dialer makes connections to servers: Dial, such as DialPlain, the one below, and TLS
// what is on top of it.
type Dialer struct {
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	TLS  *tls.Config
}

// DialPlain is a Dial for a Dialer, by TCP with keep-alives.
func DialPlain(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext(ctx, network, addr)
}

// connect dials one server and verifies that it is one.
func connect(ctx context.Context, dialer Dialer, server string) (*tls.Conn, error) {
	raw, err := dialer.Dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, shakeTimeout)
	defer cancel()
	conn := tls.Client(raw, dialer.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		if errors.As(err, &x509.UnknownAuthorityError{}) {
			return nil, fmt.Errorf("%s is no server of the cluster that this machine has joined; if that was made anew, brink uninstall and join again: %w", server, err)
		}
		return nil, fmt.Errorf("TLS with %s: %w", server, err)
	}
	return conn, nil
}

// outage is a time during which no server answers.
type outage struct {
	dialer  Dialer        // of the caller that noticed it
	over    chan struct{} // closed when one does
	waiting int           // how many callers of Dial wait
	err     error         // the last attempt's
}

// Open returns a pool of the given server and those in file. A file that cannot be read
// is only logged.
func Open(given, file string) *Pool {
	p := &Pool{given: given, file: file, dial: connect, failed: map[string]time.Time{}}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &p.known)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		slog.Warn("the servers that were known at the last start cannot be read", "component", component, "error", err)
		p.known = nil
	}
	return p
}

// Set replaces the servers that the cluster has announced, and remembers them. An empty
// list is ignored: a cluster has servers.
func (p *Pool) Set(servers []string) error {
	servers = slices.Clone(servers)
	slices.Sort(servers)
	servers = slices.Compact(servers)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(servers) == 0 || slices.Equal(servers, p.known) {
		return nil
	}
	p.known = servers
	slog.Info("servers of the cluster", "component", component, "servers", strings.Join(servers, ","))
	text, err := json.Marshal(servers)
	if err != nil {
		return err
	}
	return atomicfile.Keep(p.file, text, 0o600)
}

// All returns the known servers, the given one first.
func (p *Pool) All() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := []string{p.given}
	for _, s := range p.known {
		if s != p.given {
			out = append(out, s)
		}
	}
	return out
}

// Dial connects to any server. While none answers it waits for one, until ctx
// ends and at most a minute.
func (p *Pool) Dial(ctx context.Context, dialer Dialer) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		if err := p.wait(ctx); err != nil {
			return nil, err
		}
		conn, err := p.dialOnce(ctx, dialer)
		if err == nil || ctx.Err() != nil {
			return conn, err
		}
		p.beginOutage(dialer, err)
	}
}

// wait returns when there is no outage, or with its reason when ctx ends before.
func (p *Pool) wait(ctx context.Context) error {
	p.mu.Lock()
	o := p.outage
	if o == nil {
		p.mu.Unlock()
		return nil
	}
	o.waiting++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		o.waiting--
	}()
	select {
	case <-o.over:
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Errorf("no server answers: %w", o.err)
	}
}

func (p *Pool) beginOutage(dialer Dialer, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.outage != nil {
		return
	}
	slog.Warn("no server answers", "component", component, "error", oneLine(err))
	p.outage = &outage{dialer: dialer, over: make(chan struct{}), err: err}
	go p.endOutage(p.outage, time.Now())
}

// endOutage retries until a server answers, or until nobody has waited for a while: then
// the next caller of Dial begins another outage. It has no context: the caller that noticed
// the outage may be gone while others wait.
func (p *Pool) endOutage(o *outage, begun time.Time) {
	pause, idle := firstPause, time.Now()
	for time.Since(idle) < patience {
		time.Sleep(pause)
		pause = min(pause*3/2, longestPause)
		conn, err := p.dialOnce(context.Background(), o.dialer)
		if err == nil {
			conn.Close()
			slog.Info("a server answers again", "component", component, "after", time.Since(begun).Round(time.Second))
			break
		}
		p.mu.Lock()
		o.err = err
		if o.waiting > 0 {
			idle = time.Now()
		}
		p.mu.Unlock()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outage = nil
	close(o.over)
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// dialOnce tries each server once. Its error names all that were tried.
func (p *Pool) dialOnce(ctx context.Context, dialer Dialer) (*tls.Conn, error) {
	var errs []error
	for _, server := range p.order(time.Now()) {
		conn, err := p.dial(ctx, dialer, server)
		p.note(server, err)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	// In a fixed order: callers that log changes compare the texts.
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return nil, errors.Join(errs...)
}

// order returns the servers in random order, those that failed lately last.
func (p *Pool) order(now time.Time) []string {
	all := p.All()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	p.mu.Lock()
	defer p.mu.Unlock()
	isShunned := func(s string) int {
		if now.Sub(p.failed[s]) < shunned {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b string) int { return isShunned(a) - isShunned(b) })
	return all
}

// note records whether a server could be reached.
func (p *Pool) note(server string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.last = server
		delete(p.failed, server)
		return
	}
	p.failed[server] = time.Now()
}

// Suspect records that the server that was connected to last no longer answers.
func (p *Pool) Suspect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last != "" {
		p.failed[p.last] = time.Now()
	}
}
