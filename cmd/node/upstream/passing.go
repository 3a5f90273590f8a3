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
	// passingTime is how long a state may last that is usually over at once. What
	// still says so then is trouble and is written.
	passingTime = 30 * time.Second
	// passingForgotten is when a line counts as a new one: more than the longest
	// pause between two tries of Kubernetes, two minutes.
	passingForgotten = 5 * time.Minute
)

// heldLine is an error or warning of an embedded component about a state that cures
// itself: its parts work beside each other and meet what another one has not heard
// of yet, or has already removed. Each says so, tries again, and is content.
type heldLine struct {
	message string // how the message begins
	cause   string // what the message or an attribute contains
}

// ordinaryLines are each about one moment, however often they come.
var ordinaryLines = []heldLine{
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

// passingLines are about states that are trouble when they last.
var passingLines = []heldLine{
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

// passing holds back ordinaryLines, and passingLines until they have come for
// passingTime.
type passing struct {
	slog.Handler
	seen *seenLines
}

// seenLines are those of all handlers made from one.
type seenLines struct {
	now func() time.Time

	mu    sync.Mutex
	lines map[string]seenLine // by what they say, without its numbers
}

type seenLine struct{ first, last time.Time }

func newPassing(h slog.Handler) passing {
	return passing{h, &seenLines{now: time.Now, lines: map[string]seenLine{}}}
}

func (h passing) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn || isLastWord(r) {
		return h.Handler.Handle(ctx, r)
	}
	text := whole(r)
	switch {
	case isOneOf(ordinaryLines, r.Message, text):
		return nil
	case !isOneOf(passingLines, r.Message, text):
		return h.Handler.Handle(ctx, r)
	}
	since := h.seen.note(text)
	if since < passingTime {
		return nil
	}
	r = r.Clone()
	r.AddAttrs(slog.Duration("for", since.Round(time.Second)))
	return h.Handler.Handle(ctx, r)
}

func (h passing) WithAttrs(attrs []slog.Attr) slog.Handler {
	return passing{h.Handler.WithAttrs(attrs), h.seen}
}

func (h passing) WithGroup(name string) slog.Handler {
	return passing{h.Handler.WithGroup(name), h.seen}
}

// whole is a record's message with its attributes.
func whole(r slog.Record) string {
	var out strings.Builder
	out.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		out.WriteString(" " + a.Key + "=" + a.Value.String())
		return true
	})
	return out.String()
}

func isOneOf(lines []heldLine, message, text string) bool {
	return slices.ContainsFunc(lines, func(l heldLine) bool {
		return strings.HasPrefix(message, l.message) && strings.Contains(text, l.cause)
	})
}

// note returns for how long the same has been said. Revisions, times and ports in it
// differ each time, so numbers do not count.
func (l *seenLines) note(text string) time.Duration {
	key := strings.Map(func(c rune) rune {
		if unicode.IsDigit(c) {
			return -1
		}
		return c
	}, text)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	line, known := l.lines[key]
	if !known && len(l.lines) >= maxRepeats {
		clear(l.lines)
	}
	if !known || now.Sub(line.last) > passingForgotten {
		line.first = now
	}
	line.last = now
	l.lines[key] = line
	return now.Sub(line.first)
}
