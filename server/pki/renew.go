package pki

import (
	"context"
	"log/slog"
	"time"

	"brink/internal/lifecycle"
)

const componentName = "certificates"

// DefaultRenewEvery is how often the Renewer looks at the clock. A look
// compares a few times in memory and costs microseconds; a minute rather than
// an hour because a board without a real-time clock may jump months ahead when
// its time is first synchronized, and Go's timers do not see such a jump.
const DefaultRenewEvery = time.Minute

// Renewer issues leaves again, in place, while the server runs: when they are
// due, looking every so often (zero is DefaultRenewEvery). The API server and
// the kubelet reload the files by themselves; renewed is called with the names
// of what was issued, for copies such as the admin kubeconfig. A failure of
// either is logged and tried again at the next look: there are months left, and
// a full disk is no reason to stop a node.
func (t *Tree) Renewer(every time.Duration, renewed func(leaves []string) error) lifecycle.Component {
	if every <= 0 {
		every = DefaultRenewEvery
	}
	return lifecycle.Component{Name: componentName, Run: func(ctx context.Context, ready func()) error {
		ready()
		r := &renewal{tree: t, notify: renewed}
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(t.nextLook(every)):
				r.look()
			}
		}
	}}
}

// renewal remembers what is still to be told, to whom, between two looks.
type renewal struct {
	tree       *Tree
	notify     func([]string) error
	untold     []string
	complained time.Time
}

func (r *renewal) look() {
	names, err := r.tree.reissueDue()
	r.untold = append(r.untold, names...)
	if err == nil && len(r.untold) > 0 && r.notify != nil {
		err = r.notify(r.untold)
	}
	if err != nil {
		r.complain(err)
		return
	}
	r.untold, r.complained = nil, time.Time{}
}

// complain logs a lasting failure every hour, not at every look.
func (r *renewal) complain(err error) {
	if time.Since(r.complained) < time.Hour {
		return
	}
	r.complained = time.Now()
	slog.Error("renewing certificates, will try again", "component", componentName, "error", err)
}

// nextLook is the time until the first leaf is due, at most every.
func (t *Tree) nextLook(every time.Duration) time.Duration {
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
