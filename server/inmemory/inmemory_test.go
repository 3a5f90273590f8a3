package inmemory

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
)

// patience is for things that happen at once; it is only waited out by a
// failing test.
const patience = 20 * time.Second

var alice = &user.DefaultInfo{Name: "alice", Groups: []string{"system:authenticated"}}

// clientOf returns an HTTP client that reaches h in memory as alice.
func clientOf(t testing.TB, h http.HandlerFunc) *http.Client {
	t.Helper()
	server := &Server{}
	server.Handle(h)
	return client(t, server, alice)
}

func client(t testing.TB, server *Server, u user.Info) *http.Client {
	t.Helper()
	c, err := rest.HTTPClientFor(server.Config(u))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func get(ctx context.Context, c *http.Client) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, host+"/path?q=1", nil)
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}

// mustGet returns a response whose body is closed with the test.
func mustGet(t *testing.T, c *http.Client) *http.Response {
	t.Helper()
	resp, err := get(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestRequestArrivesWhole(t *testing.T) {
	t.Parallel()
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(http.StatusCreated)
		w.Header().Set("X-Too-Late", "no")
		fmt.Fprintf(w, "%s %s %s %s %s", r.Method, r.RequestURI, r.Proto, r.Header.Get("X-Ask"), body)
	})
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, host+"/api/v1?watch=1", strings.NewReader("content"))
	req.Header.Set("X-Ask", "asked")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if want := "POST /api/v1?watch=1 HTTP/2.0 asked content"; string(body) != want || err != nil {
		t.Errorf("got %q (%v), want %q", body, err, want)
	}
	if resp.StatusCode != http.StatusCreated || resp.Status != "201 Created" {
		t.Errorf("got status %d %q", resp.StatusCode, resp.Status)
	}
	if resp.Header.Get("X-Answer") != "yes" || resp.Header.Get("X-Too-Late") != "" {
		t.Errorf("got headers %v", resp.Header)
	}
	if resp.Request != req {
		t.Error("the response does not know its request")
	}
}

// TestHandlerMayChangeItsRequest: the client's own headers stay as they are.
func TestHandlerMayChangeItsRequest(t *testing.T) {
	t.Parallel()
	c := clientOf(t, func(_ http.ResponseWriter, r *http.Request) { r.Header.Del("Authorization") })
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, host, nil)
	req.Header.Set("Authorization", "kept")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if req.Header.Get("Authorization") != "kept" {
		t.Error("the handler has changed the client's request")
	}
}

// TestWatch reads events one by one while the handler is still running.
func TestWatch(t *testing.T) {
	t.Parallel()
	events := make(chan string)
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json;stream=watch")
		w.(http.Flusher).Flush() // headers are there before the first event
		for e := range events {
			fmt.Fprintln(w, e)
			w.(http.Flusher).Flush()
		}
	})
	resp := mustGet(t, c)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") == "" {
		t.Errorf("headers before the first event: %d %v", resp.StatusCode, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	for _, e := range []string{"added", "modified", "deleted"} {
		events <- e
		if !lines.Scan() || lines.Text() != e {
			t.Fatalf("got %q (%v), want %q", lines.Text(), lines.Err(), e)
		}
	}
	close(events)
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the handler's end: %q, %v, want a clean end", lines.Text(), lines.Err())
	}
}

// TestWriterLooksLikeHTTP2 keeps what upstream's filters check for.
func TestWriterLooksLikeHTTP2(t *testing.T) {
	t.Parallel()
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		_, flushes := w.(http.Flusher)
		_, notifies := w.(http.CloseNotifier) //nolint:staticcheck // upstream asks for it
		_, hijacks := w.(http.Hijacker)
		fmt.Fprint(w, flushes, notifies, hijacks)
	})
	if got, _ := io.ReadAll(mustGet(t, c).Body); string(got) != "true true false" {
		t.Errorf("flusher, close notifier, hijacker: got %s", got)
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{"abort": http.ErrAbortHandler, "bug": "a bug"} {
		t.Run(name+" in the middle", func(t *testing.T) {
			t.Parallel()
			resp := mustGet(t, clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, "half")
				panic(value)
			}))
			got, err := io.ReadAll(resp.Body)
			if string(got) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %q, %v, want half and an unexpected end", got, err)
			}
		})
		t.Run(name+" before headers", func(t *testing.T) {
			t.Parallel()
			resp := mustGet(t, clientOf(t, func(http.ResponseWriter, *http.Request) { panic(value) }))
			got, err := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusInternalServerError || len(got) > 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("got %d %q, %v, want 500 and an unexpected end", resp.StatusCode, got, err)
			}
		})
	}
}
