package inmemory

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/user"

	"brink/internal/testwait"
)

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
