package clock

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var (
	built  = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	passed = built.AddDate(1, 0, 0)
)

// board has a clock that starts at a time and runs.
type board struct {
	offset       time.Duration
	synchronized func(up time.Duration) bool
	begun        time.Time
	sets         []time.Time
	setErr       error
}

func newBoard(at time.Time) *board {
	now := time.Now() // of the bubble
	return &board{offset: at.Sub(now), begun: now, synchronized: func(time.Duration) bool { return false }}
}

func (b *board) now() time.Time { return time.Now().Add(b.offset) }

func (b *board) clock() Clock {
	return Clock{
		Now:          b.now,
		Synchronized: func() bool { return b.synchronized(time.Since(b.begun)) },
		Set: func(to time.Time) error {
			b.sets = append(b.sets, to)
			if b.setErr == nil {
				b.offset = to.Sub(time.Now())
			}
			return b.setErr
		},
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	old := time.Unix(60, 0)
	for _, c := range []struct {
		name    string
		at      time.Time
		prepare func(*board)
		waits   time.Duration
		sets    bool
		fails   string
	}{
		{"a right clock", built.Add(time.Hour), func(*board) {}, 0, false, ""},
		{"a clock that may be right", passed.Add(-time.Hour), func(*board) {}, 0, false, ""},
		{"no time server ever", old, func(*board) {}, Wait, true, ""},
		{"a time server after 20 s", old, func(b *board) {
			time.AfterFunc(20*time.Second, func() { b.offset += built.Add(240 * time.Hour).Sub(b.now()) })
		}, 20 * time.Second, false, ""},
		{"a synchronized clock before the build", built.Add(-time.Hour), func(b *board) { b.synchronized = func(time.Duration) bool { return true } }, 0, false, ""},
		{"a clock that is synchronized meanwhile and still before", built.Add(-time.Hour), func(b *board) {
			b.synchronized = func(up time.Duration) bool { return up > 10*time.Second }
		}, 10 * time.Second, false, ""},
		{"a clock that may not be set", old, func(b *board) { b.setErr = errors.New("operation not permitted") }, Wait, true, "operation not permitted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBoard(c.at)
				c.prepare(b)
				told := 0
				settled, err := b.clock().Settle(t.Context(), built, func() time.Time { return passed }, func(time.Time) { told++ })
				if waited := time.Since(b.begun); waited < c.waits || waited > c.waits+time.Second {
					t.Errorf("it took %s, want %s", waited, c.waits)
				}
				if (told == 1) != (c.waits > 0) || told > 1 {
					t.Errorf("told %d times", told)
				}
				if (len(b.sets) == 1) != c.sets || (settled.Is.Equal(passed)) != (c.sets && c.fails == "") {
					t.Errorf("set %v, result %+v", b.sets, settled)
				}
				if (err != nil) != (c.fails != "") || err != nil && (!strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "\n")) {
					t.Errorf("error is %v, want %q", err, c.fails)
				}
			})
		})
	}
}

func TestSettleIsStopped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBoard(time.Unix(60, 0))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := b.clock().Settle(ctx, built, func() time.Time { return passed }, func(time.Time) {}); !errors.Is(err, context.DeadlineExceeded) || len(b.sets) > 0 {
			t.Errorf("error is %v, set %v", err, b.sets)
		}
	})
}

// TestSystem: this machine's clock can be asked, and is not set.
func TestSystem(t *testing.T) {
	t.Parallel()
	c := System()
	c.Set = func(time.Time) error { t.Error("a right clock was set"); return nil }
	if settled, err := c.Settle(t.Context(), built, func() time.Time { return passed }, func(time.Time) {}); err != nil || !settled.Is.IsZero() {
		t.Errorf("%+v %v", settled, err)
	}
	_ = c.Synchronized() // either is right; it must not end the process
}
