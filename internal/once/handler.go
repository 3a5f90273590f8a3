package once

import (
	"context"
	"log/slog"
	"time"
)

// Logger returns a logger like log that writes a line once in every: one that repeats an
// earlier line, attributes included, is written for debugging only. It is for repairs that
// somebody may undo again and again. Each Logger has a memory of its own, which the loggers
// made from it by With share.
func Logger(log *slog.Logger, every time.Duration) *slog.Logger {
	return slog.New(handler{Handler: log.Handler(), written: &Reporter{Every: every}})
}

type handler struct {
	slog.Handler
	written *Reporter
	with    string // attributes and groups of WithAttrs and WithGroup
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level <= slog.LevelDebug || h.written.Changed(h.with+r.Level.String()+" "+textOf(r), "") {
		return h.Handler.Handle(ctx, r)
	}
	if !h.Enabled(ctx, slog.LevelDebug) {
		return nil
	}
	repeated := r.Clone()
	repeated.Level = slog.LevelDebug
	return h.Handler.Handle(ctx, repeated)
}

// textOf returns the message of a record with its attributes.
func textOf(r slog.Record) string {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.String()
		return true
	})
	return text
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := h.with
	for _, a := range attrs {
		with += a.String() + " "
	}
	return handler{h.Handler.WithAttrs(attrs), h.written, with}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.written, h.with + name + "."}
}
