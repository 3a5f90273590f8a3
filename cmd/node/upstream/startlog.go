package upstream

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// maxHeld bounds the memory of a start log.
	maxHeld = 500
	// startPatience is how long a start may take before its log is shown.
	startPatience = 30 * time.Second
	// stopPatience is the same for a stop. Components have 20 s at most.
	stopPatience = 30 * time.Second
)

// StartLog holds back what Kubernetes' components log while they start. They start at the
// same time, do not find what another has not made yet, and log a dozen errors that mean
// nothing. After a start that succeeds these lines are dropped. They are all shown when a
// start fails or takes long, since one of them gives the reason, and before an error after
// which Kubernetes ends the process by itself. The same is done during a stop, in which the
// components that stop last do not find those that stopped before them.
type StartLog struct {
	mu   sync.Mutex
	open bool
	held []func()
	late *time.Timer
}

func newStartLog() *StartLog {
	l := &StartLog{}
	l.late = time.AfterFunc(startPatience, l.Show)
	return l
}

// Show prints what was held back and everything from now on.
func (l *StartLog) Show() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late.Stop()
	for _, print := range l.held {
		print()
	}
	l.held, l.open = nil, true
}

// showAtPanic is Show for a panic that ends the process. The API server gives up a request,
// of which nobody wants the answer any more, by a panic too.
func (l *StartLog) showAtPanic(_ context.Context, value any) {
	if value != http.ErrAbortHandler {
		l.Show()
	}
}

// Drop forgets what was held back and shows everything from now on.
func (l *StartLog) Drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late.Stop()
	l.held, l.open = nil, true
}

// Stopping holds back again what is logged from now on.
func (l *StartLog) Stopping() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late.Stop()
	l.open = false
	l.late = time.AfterFunc(stopPatience, l.Show)
}

// hold keeps print for later. It returns false if nothing is held back now.
func (l *StartLog) hold(print func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open {
		return false
	}
	if len(l.held) == maxHeld {
		l.held = l.held[1:]
	}
	l.held = append(l.held, print)
	return true
}

// wrap returns a handler whose records are held back as l decides, and then go to h.
func (l *StartLog) wrap(h slog.Handler) slog.Handler { return startHandler{l, h} }

type startHandler struct {
	log *StartLog
	slog.Handler
}

func (h startHandler) Handle(ctx context.Context, r slog.Record) error {
	if isFinal(r) {
		h.log.Show()
	}
	kept := r.Clone()
	if h.log.hold(func() { _ = h.Handler.Handle(context.WithoutCancel(ctx), kept) }) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h startHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return startHandler{h.log, h.Handler.WithAttrs(attrs)}
}

func (h startHandler) WithGroup(name string) slog.Handler {
	return startHandler{h.log, h.Handler.WithGroup(name)}
}
