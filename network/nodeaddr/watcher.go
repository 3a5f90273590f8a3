package nodeaddr

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"brink/internal/commas"
	"brink/internal/lifecycle"
	"brink/internal/once"
)

// ComponentName is the name of the component that runs the process's Watcher. The server
// lists it or, in a process without one, the agent.
const ComponentName = "address"

// interval is how often a Watcher compares its addresses with the machine's.
const interval = 5 * time.Second

// Watcher owns the addresses of the node in this process. It finds them, finds them
// again while the node runs, and announces each change. Nobody else asks the machine, and
// nobody keeps a copy. What is made for the addresses of one moment, such as a certificate or
// the kubelet's configuration, is made again by a restart.
type Watcher struct {
	file  string
	given bool // by the user: they never change
	find  func(query, []Address) ([]Address, error)

	mu      sync.Mutex
	query   query
	first   []Address // found at the start
	now     []Address
	changed chan struct{} // closed at the next change
}

// NewWatcher returns a Watcher that has no addresses until Find. file is where they are
// remembered for a start without a network.
func NewWatcher(file string) *Watcher {
	return &Watcher{file: file, find: find, changed: make(chan struct{})}
}

// Given returns a Watcher of addresses that the user has given.
func Given(ips ...netip.Addr) *Watcher {
	w := &Watcher{given: true, changed: make(chan struct{})}
	for _, ip := range ips {
		w.first = append(w.first, Address{IP: ip})
	}
	w.now = w.first
	return w
}

// Find finds the first addresses, of the families of the pods' ranges and outside of
// the ranges of pods and Services. It writes nothing.
func (w *Watcher) Find(pods, services []netip.Prefix) error {
	if w.given {
		return nil
	}
	q := query{families: pods, inside: slices.Concat(pods, services), file: w.file}
	found, err := w.find(q, nil)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.query, w.first, w.now = q, found, found
	return nil
}

// MayChange reports whether the addresses are found, not given.
func (w *Watcher) MayChange() bool { return !w.given }

// First returns the addresses that Find has found.
func (w *Watcher) First() []Address {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.first)
}

// FirstIPs is First without the links.
func (w *Watcher) FirstIPs() []netip.Addr { return ipsOf(w.First()) }

// IPs returns the addresses that the node has now, one a family, the preferred family
// first. It is empty before Find.
func (w *Watcher) IPs() []netip.Addr {
	w.mu.Lock()
	defer w.mu.Unlock()
	return ipsOf(w.now)
}

// Changed returns a channel that is closed at the next change of IPs. Get it before IPs, to
// miss no change.
func (w *Watcher) Changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.changed
}

// Run keeps the addresses up to date until ctx is done, after Find. While none can be
// found, the last ones stay: the cable may be out.
//
// A server, whose first addresses are in its certificate, passes check: it sees what is
// found before anybody else hears of it, and its error ends Run. Other addresses than the
// present ones have to be found twice in a row before that, because links come up in no
// order and a server that ends cuts off its cluster. The first addresses are preferred for
// as long as a link has them; without check the present ones are.
func (w *Watcher) Run(ctx context.Context, ready func(), check func([]Address) error) error {
	ready()
	if w.given {
		<-ctx.Done()
		return nil
	}
	var logged once.Reporter
	w.warnGone(ctx)
	w.remember(ctx, &logged)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var before []netip.Addr // found at the last tick
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		found, err := w.find(w.preferred(check != nil))
		if err != nil {
			continue
		}
		if check != nil {
			ips := ipsOf(found)
			isSettled := slices.Equal(ips, w.IPs()) || slices.Equal(ips, before)
			if before = ips; !isSettled {
				continue
			}
			if err := check(found); err != nil {
				return err
			}
		}
		w.set(lifecycle.Logger(ctx), found)
		w.remember(ctx, &logged)
	}
}

// preferred returns the arguments of find: the query, and the addresses to keep if a link
// has them.
func (w *Watcher) preferred(first bool) (query, []Address) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if first {
		return w.query, w.first
	}
	return w.query, w.now
}

// set replaces the addresses and announces the change, if it is one.
func (w *Watcher) set(log *slog.Logger, found []Address) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, after := ipsOf(w.now), ipsOf(found)
	w.now = found
	if slices.Equal(before, after) {
		return
	}
	log.Info("the node's addresses have changed", "were", commas.Join(before), "are", commas.Join(after))
	close(w.changed)
	w.changed = make(chan struct{})
}

// remember writes the addresses down for the next start. The file only helps: a node
// whose disk is full runs.
func (w *Watcher) remember(ctx context.Context, logged *once.Reporter) {
	w.mu.Lock()
	now := w.now
	w.mu.Unlock()
	if err := remember(w.file, now); err == nil {
		logged.Cleared(w.file)
	} else if logged.Changed(w.file, err.Error()) {
		lifecycle.Logger(ctx).Warn("remembering the node's addresses", "error", err)
	}
}

func (w *Watcher) warnGone(ctx context.Context) {
	if first := w.First(); slices.ContainsFunc(first, func(a Address) bool { return a.Gone }) {
		lifecycle.Logger(ctx).Warn("no interface has the node's address now, using the last one: connect the network or give --node-ip", "address", describe(first))
	}
}

func ipsOf(addrs []Address) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		out = append(out, a.IP)
	}
	return out
}
