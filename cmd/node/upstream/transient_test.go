package upstream

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestTransient: a line about a state that passes is not written, one about a state that
// lasts is, and one that differs in its cause always is.
func TestTransient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testTransient)
}

func testTransient(t *testing.T) {
	var out bytes.Buffer
	h := newTransient(slog.NewTextHandler(&out, nil))
	log := slog.New(h).With("component", "kubernetes")
	written := func() int {
		n := strings.Count(out.String(), "\n")
		out.Reset()
		return n
	}
	unrelated := func(port string) {
		log.Error("Failed to watch", "err", errors.New("no relationship found between node 'n' and this object, port "+port))
	}

	unrelated("1")
	time.Sleep(transientTime - time.Second)
	unrelated("22")
	if n := written(); n != 0 {
		t.Errorf("%d lines of a state that lasted less than %s", n, transientTime)
	}
	time.Sleep(time.Second)
	unrelated("333")
	if n := written(); n != 1 {
		t.Errorf("%d lines of a state that lasts, want 1", n)
	}
	time.Sleep(transientForgotten + time.Second)
	unrelated("4444")
	if n := written(); n != 0 {
		t.Errorf("%d lines of a state that is new again", n)
	}

	for range 3 {
		log.Error("Error syncing StatefulSet", "err", errors.New("read version: 1 is not as new as written version: 2"))
		time.Sleep(transientTime)
	}
	log.Error("ContainerStatus from runtime service failed", "err", errors.New("code = NotFound"), "containerID", "a")
	log.Error("ContainerStatus from runtime service failed", "err", errors.New("code = NotFound"), "containerID", "b")
	log.Info("is not as new as written version")
	if got := out.String(); written() != 1 || !strings.Contains(got, "level=INFO") {
		t.Errorf("wrote %q, want the line of information alone", got)
	}
	log.Error("ContainerStatus from runtime service failed", "err", errors.New("code = Unavailable"), "containerID", "a")
	log.Error("Error on socket receive", "err", errors.New("no route to host"))
	if n := written(); n != 2 {
		t.Errorf("%d lines of other causes, want 2", n)
	}
}

// TestTransientIsBounded: any number of different lines takes a bounded memory.
func TestTransientIsBounded(t *testing.T) {
	t.Parallel()
	l := newTransient(slog.DiscardHandler).seen
	for i := range 3 * maxRemembered {
		l.note(strings.Repeat("x", i))
	}
	if len(l.lines) > maxRemembered {
		t.Errorf("%d lines are remembered, at most %d should be", len(l.lines), maxRemembered)
	}
}
