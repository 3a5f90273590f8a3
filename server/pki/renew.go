package pki

import (
	"context"
	"log/slog"
	"time"

	"brink/internal/lifecycle"
	"brink/internal/once"
)

// ComponentName is what makes and renews certificates in `brink status` and the log.
const ComponentName = "certificates"

// DefaultRenewEvery is how often the Renewer checks the clock. A check compares a few
// times in memory and costs microseconds; it is a minute rather than an hour because a
// board without a real-time clock may jump months ahead when its time is first
// synchronized, and Go's timers do not see such a jump.
const DefaultRenewEvery = time.Minute

// Renewer issues leaves again, in place, while the server runs.
type Renewer struct {
	tree    *Tree
	every   time.Duration
	renewed func(leaves []string) error
	// unreported are leaves that were issued and for which renewed did not succeed.
	unreported []string
	failures   once.Reporter
}

// Renewer returns what renews the leaves when they are due, checking every so often
// (zero is DefaultRenewEvery). The API server and the kubelet reload the files by
// themselves; renewed is called with the names of what was issued, for copies such as
// the admin kubeconfig. A failure of either is logged and retried at the next check:
// there are months left, and a full disk is no reason to stop a node.
func (t *Tree) Renewer(every time.Duration, renewed func(leaves []string) error) *Renewer {
	if every <= 0 {
		every = DefaultRenewEvery
	}
	return &Renewer{tree: t, every: every, renewed: renewed, failures: once.Reporter{Every: time.Hour}}
}

// Run renews until ctx is done. It is ready at once.
func (r *Renewer) Run(ctx context.Context, ready func()) error {
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(r.tree.untilCheck(r.every)):
			r.check(lifecycle.Logger(ctx))
		}
	}
}

// failure is the only key and text of failures: the text of an error may name a
// temporary file, and would be new each time.
const failure = "renewing"

func (r *Renewer) check(log *slog.Logger) {
	names, err := r.tree.reissueDue()
	r.unreported = append(r.unreported, names...)
	if err == nil && len(r.unreported) > 0 && r.renewed != nil {
		err = r.renewed(r.unreported)
	}
	switch {
	case err == nil:
		r.unreported = nil
		r.failures.Cleared(failure)
	case r.failures.Changed(failure, failure):
		log.Error("renewing certificates, will try again", "error", err)
	}
}

// untilCheck returns the time until the first leaf is due, but at most every.
func (t *Tree) untilCheck(every time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.cfg.Now()
	for _, spec := range leaves {
		if until := t.renewAt(spec, t.leaves[spec.name].cert).Sub(now); until > 0 {
			every = min(every, until)
		}
	}
	return every
}
