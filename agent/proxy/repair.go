package proxy

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/proxy"

	"brink/internal/once"
	"brink/internal/sleep"
	"brink/network/nftables"
)

// Upstream writes the changes of Services, and everything once an hour. What somebody else
// deletes in between, such as a firewall that starts from an empty ruleset, is missing until
// then. So the tables are watched here. Of what upstream exports, a change of the node's
// topology makes it write everything at once.

const (
	tableName = "kube-proxy"
	// settle is how long after a change of anybody's rules the tables are compared: a
	// firewall that starts makes several changes.
	settle = 200 * time.Millisecond
	// repairTime is how long a repair may take before the tables are compared again.
	repairTime = 10 * time.Second
	// repairLogEvery is how often at most a repair is logged, as when another program
	// undoes it again and again.
	repairLogEvery = 10 * time.Minute
)

// resyncing is a proxier that writes all of its rules when asked to.
type resyncing struct {
	proxy.Provider

	mu     sync.Mutex
	labels map[string]string
}

func (r *resyncing) OnTopologyChange(labels map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.labels = labels
	r.Provider.OnTopologyChange(labels)
}

// resync repeats the present topology.
func (r *resyncing) resync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Provider.OnTopologyChange(r.labels)
}

// repairer compares the tables with what they were after upstream wrote them.
type repairer struct {
	log      *slog.Logger
	families []corev1.IPFamily
	resync   func()
	shape    func(corev1.IPFamily) (nftables.TableShape, error)
	written  func(corev1.IPFamily) float64 // when all of a family's rules were written, 0 is never

	known map[corev1.IPFamily]nftables.TableShape
}

func newRepairer(log *slog.Logger, families []corev1.IPFamily, resync func()) *repairer {
	shape := func(family corev1.IPFamily) (nftables.TableShape, error) {
		return nftables.InspectTable(nftFamily(family), tableName)
	}
	return &repairer{log: once.Logger(log, repairLogEvery), families: families, resync: resync, shape: shape, written: lastWritten, known: map[corev1.IPFamily]nftables.TableShape{}}
}

func nftFamily(family corev1.IPFamily) string {
	return map[corev1.IPFamily]string{corev1.IPv4Protocol: "ip", corev1.IPv6Protocol: "ip6"}[family]
}

// run repairs the tables until ctx is done. It begins after the first rules are written.
func (r *repairer) run(ctx context.Context) {
	changed := make(chan struct{}, 1)
	err := nftables.Watch(ctx, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		r.log.Warn("rules for Services that somebody else deletes come back within the hour only", "error", err)
		return
	}
	for {
		r.repair(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		if !sleep.For(ctx, settle) {
			return
		}
	}
}

// damaged is a table that is not what it was.
type damaged struct {
	shape nftables.TableShape
	since float64 // the last time that its rules were written
}

// repair has upstream write tables anew that are not what they were. A table whose rules
// the kernel never accepted is left to upstream's own retries.
func (r *repairer) repair(ctx context.Context) {
	found := map[corev1.IPFamily]damaged{}
	var tables []string
	for _, family := range r.families {
		at := r.written(family)
		shape, err := r.shape(family)
		if at == 0 || err != nil {
			continue
		}
		if known, ok := r.known[family]; shape.Handle == 0 || ok && shape != known {
			found[family] = damaged{shape, at}
			tables = append(tables, nftFamily(family)+" "+tableName)
		} else {
			r.known[family] = shape
		}
	}
	if len(found) == 0 {
		return
	}
	r.log.Warn("the rules for Services were changed by someone else, writing them anew", "tables", strings.Join(tables, ", "))
	r.resync()
	r.learn(ctx, found)
}

// learn waits until the tables were written again and records what they are then. A
// repair that fails changes nothing: the next change of rules, at the latest upstream's
// next attempt, leads to another repair.
func (r *repairer) learn(ctx context.Context, found map[corev1.IPFamily]damaged) {
	for deadline := time.Now().Add(repairTime); time.Now().Before(deadline) && len(found) > 0; {
		if !sleep.For(ctx, pollInterval) {
			return
		}
		for family, was := range found {
			shape, err := r.shape(family)
			if r.written(family) == was.since || err != nil {
				continue
			}
			delete(found, family)
			known, ok := r.known[family]
			known.Handle = shape.Handle
			// Upstream makes the same chains in each process, so the known ones stay, and
			// damage that follows a repair at once is seen. What a repair does not change is
			// right.
			if !ok || shape == was.shape {
				known = shape
			}
			r.known[family] = known
		}
	}
}
