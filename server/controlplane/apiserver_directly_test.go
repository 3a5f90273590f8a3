package controlplane

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"brink/internal/testprocess"
)

// TestDirectly asks servers by names through a transport that has the environment's
// proxy, as upstream builds them. It has a process of its own: the environment is
// read once.
func TestDirectly(t *testing.T) {
	if testprocess.Argument() == "" {
		for _, proxy := range []string{"http://192.0.2.9:3128", "http://proxy.example", ""} {
			cmd := testprocess.Again(t, "child")
			cmd.Env = append(cmd.Env, "HTTPS_PROXY="+proxy, "HTTP_PROXY="+proxy, "NO_PROXY=")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%q: %v\n%s", proxy, err, out)
			}
		}
		return
	}
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "asked for "+r.Host+r.URL.Path)
	}))
	defer kubelet.Close()
	away := errors.New("edge-2 is away")
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		switch address {
		case "edge-1:10250":
			return (&net.Dialer{}).DialContext(ctx, network, kubelet.Listener.Addr().String())
		case "edge-2:10250":
			return nil, away
		}
		t.Errorf("dialed %s", address)
		return nil, errors.New("dialed elsewhere")
	}
	tls := kubelet.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	tls.ServerName = "example.com" // that of httptest's certificate
	for _, http2 := range []bool{false, true} {
		client := &http.Client{Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: directly(dial), TLSClientConfig: tls.Clone(), ForceAttemptHTTP2: http2,
		}}
		for range 2 { // on one connection
			resp, err := client.Get("https://edge-1:10250/pods")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || string(body) != "asked for edge-1:10250/pods" {
				t.Errorf("got %s (%v)", body, err)
			}
		}
		if _, err := client.Get("https://edge-2:10250/"); !errors.Is(err, away) {
			t.Errorf("got %v, want %v", err, away)
		}
		client.CloseIdleConnections()
	}
}

func TestConnectingRefuses(t *testing.T) {
	t.Parallel()
	dialed := func(string) (net.Conn, error) { return nil, errors.New("dialed") }
	for request, want := range map[string]string{
		"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n": "GET through a proxy",
		"nonsense\r\n\r\n":                          "malformed",
		strings.Repeat("x", maxConnect+1):           "too long",
		"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n": "dialed",
	} {
		_, err := (&connecting{dial: dialed}).Write([]byte(request))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: got %v, want %s", request, err, want)
		}
	}
}

// TestConnectingClosed: who gives up while the target is being dialed leaves no
// connection behind.
func TestConnectingClosed(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer near.Close()
	c := &connecting{}
	c.dial = func(string) (net.Conn, error) {
		c.Close()
		return far, nil
	}
	if _, err := c.Write([]byte("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the connection to the target is open: %v", err)
	}
}
