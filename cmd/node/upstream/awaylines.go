package upstream

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"brink/datastore"
)

// echoTime is how long after an error about the datastore the lines in echoes are
// taken for its consequences.
const echoTime = time.Minute

// echoes are what Kubernetes' components say when a request took too long,
// whatever the reason.
var echoes = []string{"context canceled", "context deadline exceeded", "Timeout or abort while handling", "Post-timeout activity", "request did not complete"}

// awayLines drops what components say because the database is away. Each says it
// again and again in words of its own, thousands of lines in an hour, while the
// datastore says it once a minute.
type awayLines struct {
	slog.Handler
	last *atomic.Int64 // when it was said last, in nanoseconds
	now  func() time.Time
}

func newAwayLines(h slog.Handler) awayLines { return awayLines{h, new(atomic.Int64), time.Now} }

func (h awayLines) Handle(ctx context.Context, r slog.Record) error {
	isEcho := h.now().UnixNano()-h.last.Load() < int64(echoTime) && mentions(r, echoes...)
	switch {
	case isLastWord(r):
	case mentions(r, datastore.AwayText):
		h.last.Store(h.now().UnixNano())
		return nil
	case isEcho:
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// mentions tells whether a record has one of texts in it.
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

func (h awayLines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return awayLines{h.Handler.WithAttrs(attrs), h.last, h.now}
}

func (h awayLines) WithGroup(name string) slog.Handler {
	return awayLines{h.Handler.WithGroup(name), h.last, h.now}
}
