package containerd

import (
	"context"
	"slices"
	"time"

	"brink/internal/lifecycle"
	"brink/runtime/images"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

const (
	// keepPulls is for how long what a broken pull has fetched is kept when the pods that
	// are known to want it have gone. Another pod that waits for the image has tried by
	// then: the kubelet's longest wait between tries is five minutes.
	keepPulls = 6 * time.Minute
	// keepQueued is for how long it is kept for a pod that is there but does not try: the
	// kubelet pulls one image after the other, and that before it may be large. A list of
	// images is the same: its images come one after the other, and it waits up to
	// images.LastRetry between its tries.
	keepQueued = 24 * time.Hour
	// keepAtMost bounds all, for pods that try in vain for ever. It is counted while the
	// node runs: a board without a clock leaps by years when it learns the time.
	keepAtMost = 7 * 24 * time.Hour
	// keepShare is which part of the disk all kept pulls may take, and keepFree how many
	// percent of it must be free: at five the kubelet evicts pods.
	keepShare, keepFree = 4, 10
)

func digestOf(id string) digest.Digest { return digest.Digest(id) }

// tidy drops what pulls have left and nobody wants, until ctx ends.
func (p *pulls) tidy(ctx context.Context) {
	ctx = namespaces.WithNamespace(ctx, images.Namespace)
	tick := time.NewTicker(min(time.Minute, p.keep))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			p.tidyOnce(ctx, time.Now())
		}
	}
}

// keptPull is a lease that no pull uses now.
type keptPull struct {
	lease leases.Lease
	name  string
	last  time.Time // tried
	bytes int64
}

func (p *pulls) tidyOnce(ctx context.Context, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	found, err := p.leases.List(ctx, `labels."`+pullLabel+`"`)
	if err != nil {
		return
	}
	var kept []keptPull
	for _, lease := range found {
		name := lease.Labels[pullLabel]
		state := p.stateLocked(name)
		if state.running > 0 {
			continue
		}
		wanted := func() bool {
			return state.listed || lease.Labels[pullListLabel] != "" || p.isWanted(ctx, p.podsLocked(lease))
		}
		if state.isOver(now, p.keep, wanted) {
			p.forgetLocked(ctx, name, lease, "no pod wants it")
			continue
		}
		kept = append(kept, keptPull{lease, name, state.last, p.kept(ctx, lease)})
	}
	p.dropTooMuchLocked(ctx, kept)
}

// isOver reports whether what a pull has fetched has been kept for long enough. now has the
// monotonic clock, as since and last do: none of the three is from before the start.
func (s *pull) isOver(now time.Time, keep time.Duration, wanted func() bool) bool {
	idle := now.Sub(s.last)
	return idle > keepQueued || now.Sub(s.since) > keepAtMost || idle > keep && !wanted()
}

// dropTooMuchLocked drops those that were tried longest ago, until the rest is within its
// share of the disk.
func (p *pulls) dropTooMuchLocked(ctx context.Context, kept []keptPull) {
	var disk unix.Statfs_t
	if len(kept) == 0 || unix.Statfs(p.root, &disk) != nil {
		return
	}
	size, free := int64(disk.Blocks)*int64(disk.Bsize), int64(disk.Bavail)*int64(disk.Bsize)
	slices.SortFunc(kept, func(a, b keptPull) int { return a.last.Compare(b.last) })
	for _, k := range kept[:tooMuch(kept, size, free)] {
		p.forgetLocked(ctx, k.name, k.lease, "the disk is short")
	}
}

// tooMuch returns how many of the kept pulls must go, from the first on.
func tooMuch(kept []keptPull, size, free int64) int {
	total := int64(0)
	for _, k := range kept {
		total += k.bytes
	}
	for i, k := range kept {
		if total <= size/keepShare && free >= size*keepFree/100 {
			return i
		}
		total -= k.bytes
		free += k.bytes
	}
	return len(kept)
}

func (p *pulls) forgetLocked(ctx context.Context, name string, lease leases.Lease, why string) {
	lifecycle.Logger(p.log).Info("what a broken pull has fetched is dropped", "image", name, "reason", why)
	p.dropLocked(ctx, name, lease)
}
