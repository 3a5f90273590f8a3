package upstream

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"
)

const (
	// repeatAfter is how long a line that comes again and again is not written. An
	// agent whose server is away for an hour would write hundreds of lines of its
	// kubelet, to a flash card.
	repeatAfter = 10 * time.Minute
	// maxRepeats bounds what is remembered.
	maxRepeats = 1000
)

// repeats writes a record that says the same as one before only now and then, with
// how often it came meanwhile.
type repeats struct {
	slog.Handler
	lines *saidLines
	with  string // attributes and groups of WithAttrs and WithGroup
}

// saidLines are those of all handlers made from one.
type saidLines struct {
	now func() time.Time

	seed maphash.Seed

	mu   sync.Mutex
	said map[uint64]*saidLine // by the hash of what it says, which may be long
}

type saidLine struct {
	at      time.Time
	skipped int
}

func newRepeats(h slog.Handler) repeats {
	return repeats{Handler: h, lines: &saidLines{now: time.Now, seed: maphash.MakeSeed(), said: map[uint64]*saidLine{}}}
}

func (h repeats) Handle(ctx context.Context, r slog.Record) error {
	key := h.with + r.Level.String() + essence(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		key += " " + attrEssence(a)
		return true
	})
	skipped, isNews := h.lines.note(key)
	if !isNews {
		return nil
	}
	if skipped > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("repeated", skipped))
	}
	return h.Handler.Handle(ctx, r)
}

func (h repeats) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := h.with
	for _, a := range attrs {
		with += attrEssence(a) + " "
	}
	return repeats{h.Handler.WithAttrs(attrs), h.lines, with}
}

func (h repeats) WithGroup(name string) slog.Handler {
	return repeats{h.Handler.WithGroup(name), h.lines, h.with + name + "."}
}

// note tells whether a line is to be written, and how many like it were not.
func (l *saidLines) note(text string) (skipped int, isNews bool) {
	key := maphash.String(l.seed, text)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	line, known := l.said[key]
	if known && now.Sub(line.at) < repeatAfter {
		line.skipped++
		return 0, false
	}
	if len(l.said) >= maxRepeats {
		clear(l.said)
	}
	l.said[key] = &saidLine{at: now}
	if known {
		skipped = line.skipped
	}
	return skipped, true
}

// noAnswer are the ways in which it is said that a server does not answer.
var noAnswer = []string{
	"deadline exceeded", "Client.Timeout", "connection refused", "connection reset", "no server answers",
	"client connection lost", "network is unreachable", "no route to host", "EOF", "request canceled",
}

// asked is a URL as errors quote it, with what was asked for.
var asked = regexp.MustCompile(`"https?://[^"]*"`)

// channel is what gRPC numbers, a pair for each connection.
var channel = regexp.MustCompile(`\[Channel #\d+ SubChannel #\d+\]`)

// essence is what does not change between lines that say the same: what is before
// the first colon where the cause, behind it, is that nobody answers.
func essence(text string) string {
	for _, part := range noAnswer {
		if at := strings.Index(text, part); at >= 0 {
			what, _, _ := strings.Cut(asked.ReplaceAllString(channel.ReplaceAllString(text[:at], "[Channel]"), "URL"), ": ")
			return what + " (no answer)"
		}
	}
	return text
}

func attrEssence(a slog.Attr) string {
	switch a.Key {
	case "interval", "timeElapsed", "backoff", "attempt":
		return a.Key
	case "err", "error":
		return a.Key + "=" + essence(a.Value.String())
	}
	return fmt.Sprintf("%s=%v", a.Key, a.Value)
}
