package inmemory

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"

	"brink/internal/testwait"
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

// whoAmI answers with the user whom Authenticator recognises, else with
// "nobody", which is what next says here.
func whoAmI(w http.ResponseWriter, r *http.Request) {
	nobody := authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) { return nil, false, nil })
	response, ok, err := Authenticator(nobody).AuthenticateRequest(r)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case !ok:
		io.WriteString(w, "nobody")
	default:
		fmt.Fprintf(w, "%s %v", response.User.GetName(), response.User.GetGroups())
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	server := &Server{}
	server.Handle(http.HandlerFunc(whoAmI))
	network := httptest.NewServer(http.HandlerFunc(whoAmI))
	t.Cleanup(network.Close)
	// What a client could try to be someone else, or to be someone at all.
	forged := map[string]string{
		"Authorization":            "Bearer system:masters",
		"X-Remote-User":            "root",
		"X-Remote-Group":           "system:masters",
		"Impersonate-User":         "root",
		"X-Identity":               "root",
		"Sec-Websocket-Protocol":   "base64url.bearer.authorization.k8s.io.cm9vdA",
		"X-Forwarded-Client-Cert":  "root",
		"X-Brink-In-Memory-Client": "root",
	}
	bob := &user.DefaultInfo{Name: "system:node:bob", Groups: []string{"system:nodes"}}
	tests := []struct {
		name   string
		client *http.Client
		url    string
		want   string
	}{
		{"in memory", client(t, server, alice), host, "alice [system:authenticated]"},
		{"in memory, someone else", client(t, server, bob), host, "system:node:bob [system:nodes]"},
		{"by network", network.Client(), network.URL, "nobody"},
	}
	for _, tt := range tests {
		for _, forge := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/forged=%t", tt.name, forge), func(t *testing.T) {
				t.Parallel()
				// A context that has an identity of another request.
				ctx := context.WithValue(t.Context(), identityKey{}, user.Info(&user.DefaultInfo{Name: "root"}))
				req, _ := http.NewRequestWithContext(ctx, http.MethodGet, tt.url, nil)
				if forge {
					for name, value := range forged {
						req.Header.Set(name, value)
					}
				}
				resp, err := tt.client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				if got, err := io.ReadAll(resp.Body); string(got) != tt.want {
					t.Errorf("the server sees %q (%v), want %q", got, err, tt.want)
				}
			})
		}
	}
}

// TestNestedRequestIsItsOwn: a handler that calls the API with its request's
// context. Upstream's chain keeps a request's logger and audit event in the
// context and panics on finding those of another.
func TestNestedRequestIsItsOwn(t *testing.T) {
	t.Parallel()
	type perRequest struct{}
	server := &Server{}
	inner := client(t, server, &user.DefaultInfo{Name: "inner"})
	server.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(perRequest{}) != nil {
			t.Error("the inner request carries values of the outer one")
		}
		if r.URL.Path == "/inner" {
			whoAmI(w, r)
			return
		}
		ctx := context.WithValue(r.Context(), perRequest{}, "outer")
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, host+"/inner", nil)
		resp, err := inner.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		io.Copy(w, resp.Body)
	}))
	got, err := io.ReadAll(mustGet(t, client(t, server, alice)).Body)
	if string(got) != "inner []" || err != nil {
		t.Errorf("got %q, %v, want the inner client's identity", got, err)
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

func TestNotServing(t *testing.T) {
	t.Parallel()
	server := &Server{}
	c := client(t, server, alice)
	sent := &closeTracker{Reader: strings.NewReader("x"), closed: make(chan struct{})}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, host, sent)
	_, err := c.Do(req)
	if !errors.Is(err, ErrNotServing) {
		t.Errorf("got %v, want %v", err, ErrNotServing)
	}
	if !utilnet.IsConnectionRefused(err) {
		t.Errorf("client-go does not recognise %v as a refused connection", err)
	}
	testwait.Closed(t, "the request's body is closed", sent.closed)
	server.Handle(http.HandlerFunc(whoAmI))
	if resp := mustGet(t, c); resp.StatusCode != http.StatusOK {
		t.Errorf("once it serves: %d", resp.StatusCode)
	}
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

// TestConcurrent is for the race detector: many clients with identities of
// their own, some of which leave early.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	server := &Server{}
	var running atomic.Int64
	server.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Add(-1)
		whoAmI(w, r)
		w.(http.Flusher).Flush()
		w.Write(make([]byte, 2*maxBuffered))
	}))
	var clients sync.WaitGroup
	for i := range 16 {
		name := fmt.Sprintf("user-%d", i)
		c := client(t, server, &user.DefaultInfo{Name: name})
		clients.Go(func() {
			for n := range 20 {
				oneOfMany(t, c, name, n%2 == 0)
			}
		})
	}
	clients.Wait()
	deadline := time.Now().Add(patience)
	for running.Load() > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if n := running.Load(); n > 0 {
		t.Errorf("%d handlers still run after all clients have closed their bodies", n)
	}
}

func oneOfMany(t *testing.T, c *http.Client, name string, stay bool) {
	resp, err := get(t.Context(), c)
	if err != nil {
		t.Error(err)
		return
	}
	defer resp.Body.Close()
	want := name + " []"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
	if !stay {
		return
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 2*maxBuffered {
		t.Errorf("got %d more bytes, %v", len(rest), err)
	}
}

// BenchmarkRoundTrip compares this transport with what a client of a separate
// API server has: HTTP/2 over TLS on loopback. The figure is the ratio of the
// two, not either alone.
func BenchmarkRoundTrip(b *testing.B) {
	for _, size := range []int{1 << 10, 1 << 20} {
		content := make([]byte, size)
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write(content) })
		b.Run(fmt.Sprintf("inmemory/%dKiB", size>>10), func(b *testing.B) {
			benchmark(b, clientOf(b, h), host, int64(size))
		})
		b.Run(fmt.Sprintf("tls/%dKiB", size>>10), func(b *testing.B) {
			server := httptest.NewUnstartedServer(h)
			server.EnableHTTP2 = true
			server.StartTLS()
			defer server.Close()
			benchmark(b, server.Client(), server.URL, int64(size))
		})
	}
}

func benchmark(b *testing.B, c *http.Client, url string, size int64) {
	b.ReportAllocs()
	b.SetBytes(size)
	for b.Loop() {
		resp, err := c.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
			b.Fatalf("read %d bytes: %v", n, err)
		}
		resp.Body.Close()
	}
}

// TestBundleOfCAs: what is added to a client for TLS changes nothing and stops
// nothing.
func TestBundleOfCAs(t *testing.T) {
	t.Parallel()
	s := &Server{}
	s.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, _ := Identity(r.Context())
		_, _ = io.WriteString(w, u.GetName()+" "+r.URL.Path)
	}))
	config := s.WrappedConfig(&user.DefaultInfo{Name: "me"})
	config.TLSClientConfig.CAData = []byte(caPEM(t))
	config.TLSClientConfig.ServerName = "kubernetes.default.svc"
	config.NextProtos = []string{"http/1.1"}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Get("https://kubernetes.default.svc:443/hook")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); string(text) != "me /hook" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
}

func caPEM(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// TestPatientRequest: the request that waits for the server is answered before others
// get through, and one that gives up does not hold them.
func TestPatientRequest(t *testing.T) {
	t.Parallel()
	s := &Server{}
	client := &http.Client{Transport: s.Config(&user.DefaultInfo{Name: "tester"}).Transport}
	gaveUp, giveUp := context.WithCancel(t.Context())
	for _, ctx := range []context.Context{t.Context(), gaveUp} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, host+patientPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if resp, err := client.Do(req); err == nil {
				resp.Body.Close()
			}
		}()
	}
	for waiting := 0; waiting < 1; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		if s.opened != nil {
			waiting++
		}
		s.mu.Unlock()
	}
	time.Sleep(20 * time.Millisecond) // so that both wait
	giveUp()
	if _, err := client.Get(host + "/api"); !errors.Is(err, ErrNotServing) {
		t.Errorf("another path: %v", err)
	}
	answered := false
	s.Handle(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == patientPath {
			time.Sleep(20 * time.Millisecond)
			answered = true
		} else if !answered {
			t.Error("another request came first")
		}
	}))
	resp, err := client.Get(host + "/api")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !answered {
		t.Error("the request that waited was not answered")
	}
}
