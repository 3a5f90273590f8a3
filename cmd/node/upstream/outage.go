package upstream

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"brink/datastore"
)

// echoTime is for how long after an error about the datastore the lines in echoes are
// taken for its consequences.
const echoTime = time.Minute

// echoes are what Kubernetes' components log when a request took too long, whatever
// the reason.
var echoes = []string{"context canceled", "context deadline exceeded", "Timeout or abort while handling", "Post-timeout activity", "request did not complete"}

// outage drops what components log because the database is away. Each of them logs it
// again and again in its own words, thousands of lines in an hour. The datastore logs the
// outage once a minute.
type outage struct {
	slog.Handler
	last *atomic.Int64 // when the last line about it came, in nanoseconds
}

func newOutage(h slog.Handler) outage { return outage{h, new(atomic.Int64)} }

func (h outage) Handle(ctx context.Context, r slog.Record) error {
	isEcho := time.Now().UnixNano()-h.last.Load() < int64(echoTime) && mentions(r, echoes...)
	switch {
	case isFinal(r):
	case mentions(r, datastore.AwayText):
		h.last.Store(time.Now().UnixNano())
		return nil
	case isEcho:
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// mentions reports whether r contains one of texts.
func mentions(r slog.Record, texts ...string) bool {
	has := func(s string) bool {
		for _, text := range texts {
			if strings.Contains(s, text) {
				return true
			}
		}
		return false
	}
	found := has(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		found = found || has(a.Value.String())
		return !found
	})
	return found
}

func (h outage) WithAttrs(attrs []slog.Attr) slog.Handler {
	return outage{h.Handler.WithAttrs(attrs), h.last}
}

func (h outage) WithGroup(name string) slog.Handler {
	return outage{h.Handler.WithGroup(name), h.last}
}
