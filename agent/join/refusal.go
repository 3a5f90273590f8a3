package join

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"brink/internal/wire/noderights"
)

// errRefused is what is wrong when servers do not take this node's certificate any
// more. It is among the ways in which they do not answer for who writes the log:
// all of a node's parts would fill it.
var errRefused = errors.New("no server answers this node any more")

const (
	// askAgain is how often one request tries whether the certificate is taken: a
	// deleted node runs for months, and its server may be a board.
	askAgain = time.Minute
	// holdFor is how long all others wait before they fail, as when no server is
	// there. The kubelet asks for things on its way to start a container again.
	holdFor = 30 * time.Second
)

// refusal is what servers say of this node's certificate. A node that was deleted
// goes on with its pods, and asks the servers for nothing in vain.
type refusal struct {
	tell     func(why string) // nil while nobody is to be told
	patience time.Duration    // of tests; zero is holdFor

	mu    sync.Mutex
	why   string        // as in noderights, "" while the certificate is taken
	asked time.Time     // the last time that one request tried
	over  chan struct{} // closed when the certificate is taken again
}

// note looks at an answer.
func (r *refusal) note(resp *http.Response) {
	why := ""
	if resp.StatusCode == http.StatusUnauthorized {
		if why = resp.Header.Get(noderights.Header); why == "" {
			return // for another reason
		}
	}
	r.mu.Lock()
	isNews := why != "" && r.why == ""
	if isNews {
		r.asked, r.over = time.Now(), make(chan struct{})
	}
	r.setLocked(why)
	tell := r.tell
	r.mu.Unlock()
	if isNews && tell != nil {
		tell(why)
	}
}

// told has tell called with why the certificate is refused, now or later.
func (r *refusal) told(tell func(why string)) {
	r.mu.Lock()
	r.tell = tell
	why := r.why
	r.mu.Unlock()
	if why != "" {
		tell(why)
	}
}

// reason is why the certificate is refused, "" while it is taken.
func (r *refusal) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}

// forget is for another certificate.
func (r *refusal) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setLocked("")
}

func (r *refusal) setLocked(why string) {
	if why == "" && r.why != "" {
		close(r.over)
	}
	r.why = why
}

// hold lets a request through unless it would be refused.
func (r *refusal) hold(ctx context.Context) error {
	over := r.closed(time.Now())
	if over == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-over:
		return nil
	case <-time.After(r.holds()):
		return errRefused
	}
}

func (r *refusal) holds() time.Duration {
	if r.patience == 0 {
		return holdFor
	}
	return r.patience
}

// closed is nil for a request that may try.
func (r *refusal) closed(now time.Time) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why == "" {
		return nil
	}
	if now.Sub(r.asked) >= askAgain {
		r.asked = now
		return nil
	}
	return r.over
}

// Refused is nil while the servers take this node's certificate, else one line: what
// has happened and what to do.
func (j *Join) Refused() error {
	if why := j.refusal.reason(); why != "" {
		return errors.New(j.refusedText(why))
	}
	return nil
}

func (j *Join) refusedText(why string) string {
	what := "was deleted from the cluster"
	if why == noderights.Replaced {
		what += ", or another machine has its name now"
	}
	todo := "restart brink to join again with the token in its settings"
	if j.cfg.Token == nil {
		todo = "to join again make a token with brink token create on the server, give it with --token-file and restart brink"
	}
	return fmt.Sprintf("node %s %s: %s", j.cfg.NodeName, what, todo)
}

// tellRefused logs it. The node's pods go on.
func (j *Join) tellRefused(why string) {
	slog.Warn(j.refusedText(why), "component", component)
}
