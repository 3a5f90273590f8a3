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

// errRefused means that the servers no longer accept this node's certificate. All of a
// node's parts get this error and log it. Its text is one that the log takes for a server
// that does not answer, and so writes only now and then.
var errRefused = errors.New("no server answers this node any more")

const (
	// askAgain is how often one request goes through, to find out whether the certificate
	// is accepted again: a deleted node runs for months, and its server may be a board.
	askAgain = time.Minute
	// holdFor is how long all other requests wait before they fail, as when no server is
	// there. The kubelet makes some before it restarts a container.
	holdFor = 30 * time.Second
)

// refusal records whether servers refuse this node's certificate. A node that was deleted
// goes on with its pods, and sends no requests that would be refused.
type refusal struct {
	mu    sync.Mutex
	tell  func(why string) // called when a refusal begins; nil while nobody is to be told
	why   string           // as in noderights, "" while the certificate is accepted
	asked time.Time        // when a request last went through
	over  chan struct{}    // closed when the certificate is accepted again
}

// note learns from an answer whether the certificate is refused.
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

// onRefusal sets the function that is called with the reason when a refusal begins. If
// there is one already, it is called at once.
func (r *refusal) onRefusal(tell func(why string)) {
	r.mu.Lock()
	r.tell = tell
	why := r.why
	r.mu.Unlock()
	if why != "" {
		tell(why)
	}
}

// reason returns why the certificate is refused, "" while it is accepted.
func (r *refusal) reason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}

// forget ends the refusal: there is another certificate.
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

// hold blocks a request that would be refused until the certificate is accepted again,
// or fails it. A request that would not be refused, or that has to find out, passes.
func (r *refusal) hold(ctx context.Context) error {
	over := r.end()
	if over == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-over:
		return nil
	case <-time.After(holdFor):
		return errRefused
	}
}

// end returns the channel that is closed when the refusal ends, or nil for a request that
// need not wait for it.
func (r *refusal) end() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why == "" {
		return nil
	}
	if now := time.Now(); now.Sub(r.asked) >= askAgain {
		r.asked = now
		return nil
	}
	return r.over
}

// Refused returns nil while the servers accept this node's certificate, else one line:
// what has happened and what to do.
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

// tellRefused logs a refusal.
func (j *Join) tellRefused(why string) {
	slog.Warn(j.refusedText(why), "component", component)
}
