package inmemory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"brink/internal/testwait"
)

// untilGone is a handler that writes one line, waits for its context and its
// close notifier, and writes until that fails.
func untilGone(gone chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		notified := w.(http.CloseNotifier).CloseNotify() //nolint:staticcheck // upstream uses it
		fmt.Fprintln(w, "hello")
		<-r.Context().Done()
		<-notified
		for err := error(nil); err == nil; {
			_, err = fmt.Fprintln(w, "anyone?")
		}
		close(gone)
	}
}

func TestBodyCloseEndsHandler(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	resp := mustGet(t, clientOf(t, untilGone(gone)))
	resp.Body.Close()
	testwait.Closed(t, "the handler sees that nobody reads", gone)
	if _, err := resp.Body.Read(make([]byte, 9)); err == nil || err == io.EOF {
		t.Errorf("reading a closed body: %v", err)
	}
}

func TestCancelEndsHandlerAndReader(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	ctx, cancel := context.WithCancelCause(t.Context())
	resp, err := get(ctx, clientOf(t, untilGone(gone)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	why := errors.New("the pod was deleted")
	cancel(why)
	testwait.Closed(t, "the handler sees the cancellation", gone)
	// The handler returned without a panic, but only because it was told to:
	// what it wrote must not look like a complete response.
	if rest, err := io.ReadAll(resp.Body); !errors.Is(err, why) {
		t.Errorf("read %q and %v, want the reason of the cancellation", rest, err)
	}
}

// TestCancelUnblocksReader cancels while a reader waits for a silent watch.
func TestCancelUnblocksReader(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := get(ctx, clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := resp.Body.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestCancelBeforeHeaders(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	reached := make(chan struct{})
	c := clientOf(t, func(_ http.ResponseWriter, r *http.Request) {
		close(reached)
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-reached; cancel() }()
	if _, err := get(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	testwait.Closed(t, "the handler ends", gone)
}

func TestCancelledRequestIsNotServed(t *testing.T) {
	t.Parallel()
	c := clientOf(t, func(http.ResponseWriter, *http.Request) { t.Error("served") })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := get(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// TestClientTimeout is what the kubelet's heartbeats rely on.
func TestClientTimeout(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	c := clientOf(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(gone) })
	c.Timeout = 20 * time.Millisecond
	_, err := get(t.Context(), c)
	if timeout, ok := err.(interface{ Timeout() bool }); !ok || !timeout.Timeout() {
		t.Errorf("got %v, want a timeout", err)
	}
	testwait.Closed(t, "the handler ends", gone)
}

// TestSlowReader has a reader that takes nothing for a while: the handler may
// run ahead by maxBuffered bytes and no more, in small writes and in one.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	for name, chunk := range map[string]int{"small writes": 4 << 10, "odd writes": 100_003, "one write": size} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			content := bytes.Repeat([]byte("0123456789abcdef"), size/16)
			resp := mustGet(t, clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
				for rest := content; len(rest) > 0; {
					n, err := w.Write(rest[:min(chunk, len(rest))])
					if err != nil {
						t.Error(err)
						return
					}
					rest = rest[n:]
				}
			}))
			waitFull(t, resp.Body.(*body))
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("got %d bytes, %v, want the %d that were written", len(got), err, size)
			}
		})
	}
}

// waitFull waits until the handler is held back and looks that it stays so.
func waitFull(t *testing.T, b *body) {
	t.Helper()
	buffered := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.pending)
	}
	deadline := time.Now().Add(patience)
	for buffered() < maxBuffered && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	if got := buffered(); got != maxBuffered {
		t.Fatalf("%d bytes are buffered, want %d", got, maxBuffered)
	}
}

// TestCloseReleasesBlockedWriter has a reader go away while the handler is held
// back.
func TestCloseReleasesBlockedWriter(t *testing.T) {
	t.Parallel()
	result := make(chan error, 1)
	resp := mustGet(t, clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write(make([]byte, 4*maxBuffered))
		result <- err
	}))
	waitFull(t, resp.Body.(*body))
	resp.Body.Close()
	select {
	case err := <-result:
		if err == nil {
			t.Error("the write succeeded though nobody reads")
		}
	case <-time.After(patience):
		t.Error("the handler still waits for the reader")
	}
}

func TestNoBody(t *testing.T) {
	t.Parallel()
	handlers := map[int]http.HandlerFunc{
		http.StatusNoContent: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
		http.StatusNotFound:  func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
		// A handler that does nothing has said 200; one that sends early hints
		// has said nothing final.
		http.StatusOK: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusEarlyHints) },
	}
	for want, h := range handlers {
		t.Run(http.StatusText(want), func(t *testing.T) {
			t.Parallel()
			resp := mustGet(t, clientOf(t, h))
			if got, err := io.ReadAll(resp.Body); resp.StatusCode != want || len(got) > 0 || err != nil {
				t.Errorf("got %d %q %v, want %d without a body", resp.StatusCode, got, err, want)
			}
		})
	}
}

// closeTracker notices that a request's body was closed.
type closeTracker struct {
	io.Reader
	closed chan struct{}
	once   sync.Once
}

func (c *closeTracker) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func TestRequestBodyIsClosed(t *testing.T) {
	t.Parallel()
	c := clientOf(t, func(http.ResponseWriter, *http.Request) {}) // reads nothing
	sent := &closeTracker{Reader: strings.NewReader("x"), closed: make(chan struct{})}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, host, sent)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	testwait.Closed(t, "the request's body is closed", sent.closed)
}
