package tunnel

import (
	"fmt"
	"testing"
	"time"

	"brink/internal/testwait"
	server "brink/server/tunnel"
)

// A server is told whose the certificate is and what the node has seen before the tunnel is there, at each dial
// anew; who is no node is not asked.
func TestServerIsToldTheRevision(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	told := make(chan string, 8)
	s := &apiServer{ca: ca, Server: server.New(server.Config{
		Patience: 100 * time.Millisecond,
		Witness:  func(node string, revision int64) { told <- fmt.Sprint(node, " ", revision) },
	})}
	s.listen("127.0.0.1:0")
	t.Cleanup(s.stop)
	revision := int64(41)
	cfg := Config{TLS: ca.config(ca.node("n2")), Revision: func() int64 { revision++; return revision }, Proof: func() string { return "it is mine" }, timing: hasty}
	tunnels := run(t, cfg, s.addr)
	testwait.Until(t, "the proof of the certificate", func() bool { return s.said.Load() == "it is mine" })
	for _, want := range []string{"n2 42", "n2 43"} {
		select {
		case got := <-told:
			if got != want {
				t.Errorf("the server is told %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatal("the server is told nothing")
		}
		testwait.Until(t, "a tunnel", func() bool { return s.Has("n2") })
		tunnels.Redial()
	}
	run(t, Config{TLS: ca.config(ca.client("someone", "people")), Revision: func() int64 { return 1 << 40 }, timing: hasty}, s.addr)
	run(t, Config{TLS: ca.config(ca.node("n3")), timing: hasty}, s.addr) // it has seen nothing
	testwait.Until(t, "the tunnel of n3", func() bool { return s.Has("n3") })
	for len(told) > 0 {
		if got := <-told; got[:2] != "n2" {
			t.Errorf("the server believes %q", got)
		}
	}
}
