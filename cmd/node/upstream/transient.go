package upstream

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// transientTime is how long a state may last that is usually over at once. A line
	// that still comes then is about trouble, and is written.
	transientTime = 30 * time.Second
	// transientForgotten is after how long a line counts as a new one: more than the
	// longest pause between two retries of Kubernetes, two minutes.
	transientForgotten = 5 * time.Minute
)

// linePattern is an error or warning of an embedded component about a state that
// passes by itself: parts that work beside each other meet what another has not heard
// of yet, or has already removed. Each logs it, retries, and succeeds.
type linePattern struct {
	message string // how the message begins
	cause   string // what the message or an attribute contains
}

// harmlessLines are about one moment each, however often they come.
var harmlessLines = []linePattern{
	// A container is removed between being listed and being looked at, a pod's
	// group while its limits are read.
	{"ContainerStatus for ", "not found"},
	{"ContainerStatus from runtime service failed", "NotFound"},
	{"failed to read memory cgroup ", "no such file or directory"},
	{"collecting metrics for ", "cgroup deleted"},
	// A controller does not go on before its informer has seen what it wrote
	// itself; the next event brings it back.
	{"", "is not as new as written version"},
	// A client has ended what it had asked for: an exec, a watch.
	{"Error on socket receive", "use of closed network connection"},
	{"Failed to encode watch event", "stream closed"},
	{"failed sending message on channel", "broken pipe"},
	// containerd is stopped while it begins.
	{"serve failure", "the server has been stopped"},
	{"Error proxying data from ", "closed pipe"},
	{"Error proxying data from ", "use of closed network connection"},
}

// transientLines are about states that are trouble if they last.
var transientLines = []linePattern{
	// A controller replaces the pods of a namespace that is on its way out, and
	// what is in one needs time to end.
	{"", "because it is being terminated"},
	{"Deletion of namespace failed", "unexpected items still remain in namespace"},
	// The kubelet hears of a pod in the same moment as the authorizer that decides
	// what the pod's node may read, and reads on for a moment when it is gone.
	{"", "no relationship found between node"},
	// A server that has just started does not know its roles yet.
	{"Failed to watch", "is forbidden: User \"system:node:"},
	{"", "failed to sync configmap cache: timed out"},
	{"", "failed to sync secret cache: timed out"},
	// Two workers give a new node a range; the second one is refused and gives its
	// range back.
	{"", "node updates may not change podCIDR"},
}

// transient holds back harmlessLines, and transientLines until they have come for
// transientTime.
type transient struct {
	slog.Handler
	seen *seenLines
}

// seenLines are shared by all handlers made from one.
type seenLines struct {
	mu    sync.Mutex
	lines map[string]seenLine // by their text without its digits
}

type seenLine struct{ first, last time.Time }

func newTransient(h slog.Handler) transient {
	return transient{h, &seenLines{lines: map[string]seenLine{}}}
}

func (h transient) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn || isFinal(r) {
		return h.Handler.Handle(ctx, r)
	}
	text := whole(r)
	switch {
	case matches(harmlessLines, r.Message, text):
		return nil
	case !matches(transientLines, r.Message, text):
		return h.Handler.Handle(ctx, r)
	}
	since := h.seen.note(text)
	if since < transientTime {
		return nil
	}
	r = r.Clone()
	r.AddAttrs(slog.Duration("for", since.Round(time.Second)))
	return h.Handler.Handle(ctx, r)
}

func (h transient) WithAttrs(attrs []slog.Attr) slog.Handler {
	return transient{h.Handler.WithAttrs(attrs), h.seen}
}

func (h transient) WithGroup(name string) slog.Handler {
	return transient{h.Handler.WithGroup(name), h.seen}
}

// whole returns a record's message with its attributes.
func whole(r slog.Record) string {
	var out strings.Builder
	out.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		out.WriteString(" " + a.Key + "=" + a.Value.String())
		return true
	})
	return out.String()
}

func matches(lines []linePattern, message, text string) bool {
	return slices.ContainsFunc(lines, func(l linePattern) bool {
		return strings.HasPrefix(message, l.message) && strings.Contains(text, l.cause)
	})
}

// note returns for how long the same line has come. Revisions, times and ports in it
// differ each time, so digits do not count.
func (l *seenLines) note(text string) time.Duration {
	key := strings.Map(func(c rune) rune {
		if unicode.IsDigit(c) {
			return -1
		}
		return c
	}, text)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	line, known := l.lines[key]
	if !known && len(l.lines) >= maxRemembered {
		clear(l.lines)
	}
	if !known || now.Sub(line.last) > transientForgotten {
		line.first = now
	}
	line.last = now
	l.lines[key] = line
	return now.Sub(line.first)
}
