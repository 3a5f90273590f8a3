package proxy

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/proxy"

	"brink/internal/lifecycle"
	"brink/network/nftables"
)

// Upstream writes what has changed of Services, and all of it once an hour: what
// somebody else deletes in the meantime, as a firewall does that starts from an empty
// ruleset, is away until then. So the tables are watched here. What makes upstream
// write everything at once, of what it exports, is news about where the node stands.

const (
	tableName = "kube-proxy"
	// settle is how long after a change of anybody's rules the tables are looked at: a
	// firewall that starts makes several.
	settle = 200 * time.Millisecond
	// written is how long a repair is waited for before the next look.
	written = 10 * time.Second
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

// resync says again where the node stands.
func (r *resyncing) resync() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Provider.OnTopologyChange(r.labels)
}

// keeper compares the tables with what they were after upstream wrote them.
type keeper struct {
	families []corev1.IPFamily
	resync   func()
	shape    func(corev1.IPFamily) (nftables.TableShape, error)
	written  func(corev1.IPFamily) float64 // when all of a family's rules were written, 0 is never

	known map[corev1.IPFamily]nftables.TableShape
}

func newKeeper(families []corev1.IPFamily, resync func()) *keeper {
	shape := func(family corev1.IPFamily) (nftables.TableShape, error) {
		return nftables.InspectTable(nftFamily(family), tableName)
	}
	return &keeper{families: families, resync: resync, shape: shape, written: lastWritten, known: map[corev1.IPFamily]nftables.TableShape{}}
}

func nftFamily(family corev1.IPFamily) string {
	return map[corev1.IPFamily]string{corev1.IPv4Protocol: "ip", corev1.IPv6Protocol: "ip6"}[family]
}

// keep repairs the tables until ctx is done. The first rules are written.
func (k *keeper) keep(ctx context.Context) {
	changed := make(chan struct{}, 1)
	err := nftables.Watch(ctx, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		lifecycle.Logger(ctx).Warn("rules for Services that somebody else deletes come back within the hour only", "error", err)
		return
	}
	for {
		k.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		if !pause(ctx, settle) {
			return
		}
	}
}

// damaged is a table that is not what it was.
type damaged struct {
	shape nftables.TableShape
	since float64 // the last time that its rules were written
}

// look has tables written anew that are not what they were. One whose rules the kernel
// never took is upstream's to try again.
func (k *keeper) look(ctx context.Context) {
	found := map[corev1.IPFamily]damaged{}
	var tables []string
	for _, family := range k.families {
		at := k.written(family)
		shape, err := k.shape(family)
		if at == 0 || err != nil {
			continue
		}
		if known, ok := k.known[family]; shape.Handle == 0 || ok && shape != known {
			found[family] = damaged{shape, at}
			tables = append(tables, nftFamily(family)+" "+tableName)
		} else {
			k.known[family] = shape
		}
	}
	if len(found) == 0 {
		return
	}
	lifecycle.Logger(ctx).Warn("the rules for Services were changed by someone else, writing them anew", "tables", strings.Join(tables, ", "))
	k.resync()
	k.learn(ctx, found)
}

// learn waits until the tables were written again and takes in which they are then. A
// repair that fails changes nothing: the next change of rules, at the latest upstream's
// next try, leads to look again.
func (k *keeper) learn(ctx context.Context, found map[corev1.IPFamily]damaged) {
	for deadline := time.Now().Add(written); time.Now().Before(deadline) && len(found) > 0; {
		if !pause(ctx, look) {
			return
		}
		for family, was := range found {
			shape, err := k.shape(family)
			if k.written(family) == was.since || err != nil {
				continue
			}
			delete(found, family)
			known, ok := k.known[family]
			known.Handle = shape.Handle
			// Its chains are upstream's in each process and stay, so that damage which
			// follows a repair at once is seen. What a repair does not change is right.
			if !ok || shape == was.shape {
				known = shape
			}
			k.known[family] = known
		}
	}
}

// pause tells whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
