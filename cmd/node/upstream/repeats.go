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
	// repeatAfter is for how long a line that comes again and again is not written. An
	// agent whose server is away for an hour would write hundreds of its kubelet's
	// lines to a flash card.
	repeatAfter = 10 * time.Minute
	// maxRemembered bounds what is remembered.
	maxRemembered = 1000
)

// repeats writes a record that repeats an earlier one once in repeatAfter, with the
// number of those that were not written.
type repeats struct {
	slog.Handler
	lines *writtenLines
	with  string // attributes and groups of WithAttrs and WithGroup
}

// writtenLines are shared by all handlers made from one.
type writtenLines struct {
	seed maphash.Seed

	mu      sync.Mutex
	written map[uint64]*writtenLine // by the hash of the normalized text, which may be long
}

type writtenLine struct {
	at      time.Time
	skipped int
}

func newRepeats(h slog.Handler) repeats {
	return repeats{Handler: h, lines: &writtenLines{seed: maphash.MakeSeed(), written: map[uint64]*writtenLine{}}}
}

func (h repeats) Handle(ctx context.Context, r slog.Record) error {
	key := h.with + r.Level.String() + normalized(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		key += " " + normalizedAttr(a)
		return true
	})
	skipped, isNew := h.lines.note(key)
	if !isNew {
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
		with += normalizedAttr(a) + " "
	}
	return repeats{h.Handler.WithAttrs(attrs), h.lines, with}
}

func (h repeats) WithGroup(name string) slog.Handler {
	return repeats{h.Handler.WithGroup(name), h.lines, h.with + name + "."}
}

// note reports whether a line is to be written, and how many like it were not.
func (l *writtenLines) note(text string) (skipped int, isNew bool) {
	key := maphash.String(l.seed, text)
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	line, known := l.written[key]
	if known && now.Sub(line.at) < repeatAfter {
		line.skipped++
		return 0, false
	}
	if len(l.written) >= maxRemembered {
		clear(l.written)
	}
	l.written[key] = &writtenLine{at: now}
	if known {
		skipped = line.skipped
	}
	return skipped, true
}

// noAnswerTexts are how errors say that a server does not answer.
var noAnswerTexts = []string{
	"deadline exceeded", "Client.Timeout", "connection refused", "connection reset", "no server answers",
	"client connection lost", "network is unreachable", "no route to host", "EOF", "request canceled",
}

// quotedURL is a URL as errors quote it, with what was asked for.
var quotedURL = regexp.MustCompile(`"https?://[^"]*"`)

// channel is what gRPC numbers, a pair for each connection.
var channel = regexp.MustCompile(`\[Channel #\d+ SubChannel #\d+\]`)

// normalized returns the part of text that lines about the same thing share: what
// stands before the first colon, if the cause behind it is that no server answers, and
// all of it otherwise.
func normalized(text string) string {
	for _, part := range noAnswerTexts {
		if at := strings.Index(text, part); at >= 0 {
			what, _, _ := strings.Cut(quotedURL.ReplaceAllString(channel.ReplaceAllString(text[:at], "[Channel]"), "URL"), ": ")
			return what + " (no answer)"
		}
	}
	return text
}

func normalizedAttr(a slog.Attr) string {
	switch a.Key {
	case "interval", "timeElapsed", "backoff", "attempt":
		return a.Key
	case "err", "error":
		return a.Key + "=" + normalized(a.Value.String())
	}
	return fmt.Sprintf("%s=%v", a.Key, a.Value)
}
