package tunnel

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"brink/internal/wire/tunnelwire"
)

func TestTarget(t *testing.T) {
	t.Parallel()
	kubelet := netip.MustParseAddrPort("127.0.0.1:10250")
	tunnels := New(Config{
		Kubelet: kubelet,
		// The list has more than it should, as a mistake would make it.
		PodCIDRs: func() []netip.Prefix {
			return []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("fd42:1::/64"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fe80::/10")}
		},
		NodeIPs: func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("::1"), netip.MustParseAddr("169.254.169.254")}
		},
	})
	for host, want := range map[string]string{
		tunnelwire.Kubelet:      "127.0.0.1:10250",
		"10.42.1.5:80":          "10.42.1.5:80",
		"[::ffff:10.42.1.5]:80": "10.42.1.5:80",
		"[fd42:1::5]:443":       "[fd42:1::5]:443",
		"192.0.2.7:9100":        "192.0.2.7:9100",
		"10.42.2.5:80":          "", // another node's pod
		"10.42.1.5:0":           "",
		"10.42.1.5":             "",
		"127.0.0.1:10250":       "",
		"127.0.0.1:80":          "",
		"[::ffff:127.0.0.1]:80": "",
		"[::1]:80":              "",
		"0.0.0.0:80":            "",
		"[::]:80":               "",
		"169.254.169.254:80":    "",
		"[fe80::1]:80":          "",
		"[fd42:1::5%eth0]:443":  "",
		"224.0.0.1:80":          "",
		"192.0.2.8:9100":        "",
		"kubelet:80":            "",
		"example.com:80":        "",
		"":                      "",
	} {
		got, err := tunnels.target(&http.Request{Method: http.MethodConnect, Host: host})
		if (err == nil) != (want != "") || (err == nil && got.String() != want) {
			t.Errorf("%q: got %s, %v, want %q", host, got, err, want)
		}
	}
	if _, err := tunnels.target(&http.Request{Method: http.MethodGet, Host: tunnelwire.Kubelet}); err == nil {
		t.Error("GET is answered")
	}
	nothing := New(Config{Kubelet: kubelet})
	if _, err := nothing.target(&http.Request{Method: http.MethodConnect, Host: "10.42.1.5:80"}); err == nil {
		t.Error("a node without CIDRs has pods")
	}
}

// TestLines: one a change, however often the server is dialed.
func TestLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &link{
		tunnels: New(Config{}),
		log:     slog.New(slog.NewTextHandler(&out, nil)),
	}
	lines := func() []string {
		text := strings.TrimSpace(out.String())
		out.Reset()
		if text == "" {
			return nil
		}
		return strings.Split(text, "\n")
	}
	expect := func(what string, count int, word string) {
		t.Helper()
		got := lines()
		if len(got) != count || (count > 0 && !strings.Contains(got[0], word)) {
			t.Errorf("%s: %q", what, got)
		}
	}
	refusal := &answerError{status: "403 Forbidden", reason: "no"}
	fail := func(err error) {
		for range 100 {
			l.down(err)
		}
	}
	fail(errors.New("connection refused"))
	expect("never up", 1, "cannot be made")
	fail(refusal)
	expect("another reason soon after", 0, "")
	l.logged = time.Now().Add(-2 * newReason)
	fail(errors.New("no route to host"))
	expect("the same kind later", 0, "")
	fail(refusal)
	expect("another kind later", 1, "403 Forbidden: no")
	l.up()
	expect("up", 1, "is up")
	fail(errSilent)
	expect("lost", 1, "is lost")
}

func TestReasonOf(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"plain\n":                           "plain",
		`{"kind":"Status","message":"why"}`: "why",
		`{"kind":"Other"}`:                  `{"kind":"Other"}`,
		strings.Repeat("x", 4000):           strings.Repeat("x", tunnelwire.MaxReason),
		"":                                  "",
	} {
		if got := reasonOf(strings.NewReader(body)); got != want {
			t.Errorf("%.40s: got %.40s", body, got)
		}
	}
}

// TestAnEndingTunnelIsNoAnswer: a target that is being dialed when its tunnel ends is not
// called unreachable, which would keep the server from its other tunnels to the node.
func TestAnEndingTunnelIsNoAnswer(t *testing.T) {
	t.Parallel()
	l := &link{tunnels: New(Config{Kubelet: netip.MustParseAddrPort("127.0.0.1:1")}), log: slog.New(slog.DiscardHandler)}
	answer := func(ctx context.Context) (code int, aborted any) {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(ctx, http.MethodConnect, "http://"+tunnelwire.Kubelet, nil)
		r.Host = tunnelwire.Kubelet
		defer func() { code, aborted = w.Code, recover() }()
		l.stream(w, r)
		return
	}
	if code, aborted := answer(t.Context()); code != tunnelwire.StatusUnreachable || aborted != nil {
		t.Errorf("a target that refuses: %d, %v", code, aborted)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if code, aborted := answer(ended); aborted != http.ErrAbortHandler {
		t.Errorf("the tunnel has ended: %d, %v", code, aborted)
	}
}

// TestWokenWhileDialing: an announcement that comes while the server is being dialed does
// not shorten the pause after that tunnel is lost.
func TestWokenWhileDialing(t *testing.T) {
	t.Parallel()
	l := &link{tunnels: New(Config{}), log: slog.New(slog.DiscardHandler), woken: make(chan struct{}, 1)}
	l.wake()
	if len(l.woken) != 1 {
		t.Fatal("it is not woken")
	}
	if l.up(); len(l.woken) != 0 {
		t.Error("it stays woken while it is up")
	}
	if l.wake(); len(l.woken) != 0 {
		t.Error("it is woken while it is up")
	}
}
