package inmemory

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

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
