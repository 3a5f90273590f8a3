package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"brink/internal/testneed"
	"brink/internal/testwait"
	"brink/internal/wire/tunnelwire"
	server "brink/server/tunnel"
)

func TestBytesArrive(t *testing.T) {
	t.Parallel()
	s, tunnels := one(t, echo)
	conn := dial(t, s.Server, "a")
	mustEcho(t, conn, []byte("hello"))
	mustEcho(t, conn, random(5<<20))
	if status := tunnels.Status(); len(status) != 1 || !status[0].Up || status[0].Error != "" {
		t.Errorf("status is %+v", status)
	}
}

// TestEnds: one side's end is the other's, after everything that was sent.
func TestEnds(t *testing.T) {
	t.Parallel()
	sent := random(1 << 20)
	ended := make(chan error, 1)
	got := make(chan []byte, 1)
	handle := map[string]func(net.Conn){
		"target ends":  func(c net.Conn) { c.Write(sent) },
		"target fails": func(c net.Conn) { c.Write(sent[:10]); time.Sleep(50 * time.Millisecond); c.(*net.TCPConn).SetLinger(0) },
		"server ends": func(c net.Conn) {
			all, err := io.ReadAll(c)
			got <- all
			ended <- err
		},
	}
	t.Run("target ends", func(t *testing.T) {
		s, _ := one(t, handle["target ends"])
		all, err := io.ReadAll(dial(t, s.Server, "a"))
		if !bytes.Equal(all, sent) || err != nil {
			t.Errorf("%d of %d bytes arrived: %v", len(all), len(sent), err)
		}
	})
	t.Run("target fails", func(t *testing.T) {
		s, _ := one(t, handle["target fails"])
		if all, err := io.ReadAll(dial(t, s.Server, "a")); err == nil {
			t.Errorf("a connection that was reset after %d bytes has ended well", len(all))
		}
	})
	t.Run("server ends", func(t *testing.T) {
		s, _ := one(t, handle["server ends"])
		conn := dial(t, s.Server, "a")
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if all := <-got; !bytes.Equal(all, sent) {
			t.Errorf("%d of %d bytes arrived", len(all), len(sent))
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a closed connection is read")
		}
	})
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	s, _ := one(t, func(c net.Conn) { <-t.Context().Done() })
	conn := dial(t, s.Server, "a")
	conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("reading past the deadline: %v", err)
	}
	if _, err := io.Copy(conn, bytes.NewReader(make([]byte, 64<<20))); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("writing past the deadline: %v", err)
	}
}

// TestTargets: what is none of the node's costs its stream and not the tunnel.
func TestTargets(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	elsewhere := target(t, echo).String()
	run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo)}, s.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	open := dial(t, s.Server, "a")
	for _, to := range []string{elsewhere, "192.0.2.1:80", "kubelet:10250", "localhost:80"} {
		_, err := s.Dial(t.Context(), "a", "tcp", to)
		var no *server.TargetError
		if !errors.As(err, &no) || !no.Refused {
			t.Errorf("%s: got %v, want a refusal", to, err)
		}
	}
	if _, err := s.Dial(t.Context(), "a", "udp", "192.0.2.1:53"); err == nil {
		t.Error("UDP is carried")
	}
	mustEcho(t, open, []byte("still here"))
}

// TestPodsAndNode need an address that is not loopback.
func TestPodsAndNode(t *testing.T) {
	t.Parallel()
	own := ownAddress(t)
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	there := targetAt(t, own.String(), echo)
	var asPod, asNode atomic.Bool
	run(t, Config{
		TLS: ca.config(ca.node("a")), Kubelet: target(t, echo),
		PodCIDRs: func() []netip.Prefix {
			if asPod.Load() {
				return []netip.Prefix{netip.PrefixFrom(own, own.BitLen())}
			}
			return nil
		},
		NodeIPs: func() []netip.Addr {
			if asNode.Load() {
				return []netip.Addr{own}
			}
			return nil
		},
	}, s.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	for _, allowed := range []*atomic.Bool{&asPod, &asNode} {
		if _, err := s.Dial(t.Context(), "a", "tcp", there.String()); err == nil {
			t.Fatal("connected to an address that is not the node's")
		}
		allowed.Store(true)
		conn, err := s.Dial(t.Context(), "a", "tcp", there.String())
		if err != nil {
			t.Fatal(err)
		}
		mustEcho(t, conn, []byte("hello"))
		conn.Close()
		_, err = s.Dial(t.Context(), "a", "tcp", netip.AddrPortFrom(own, 1).String())
		var no *server.TargetError
		if !errors.As(err, &no) || no.Refused {
			t.Errorf("a port without a listener: got %v", err)
		}
		allowed.Store(false)
	}
}

// ownAddress returns an address of this machine that is not loopback's.
func ownAddress(t *testing.T) netip.Addr {
	t.Helper()
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	testneed.Missing(t, "an address that is not loopback's")
	return netip.Addr{}
}

// TestSlowReaders do not stop others, however many they are, in either
// direction, and get everything once they read.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	s, _ := one(t, echo)
	const slow = 40
	payload := random(8 << 20)
	var full sync.WaitGroup
	var conns [slow]net.Conn
	var written [slow]int
	for i := range slow {
		conns[i] = dial(t, s.Server, "a")
		full.Go(func() {
			// Nobody reads what comes back, so that soon nothing goes out.
			conns[i].SetWriteDeadline(time.Now().Add(time.Second))
			var err error
			if written[i], err = conns[i].Write(payload); err == nil {
				t.Error("a reader that does not read has taken everything")
			}
		})
	}
	full.Wait()
	mustEcho(t, dial(t, s.Server, "a"), payload)
	for i, conn := range conns {
		got := make([]byte, written[i])
		if _, err := io.ReadFull(conn, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, payload[:len(got)]) {
			t.Fatal("other bytes came back")
		}
	}
}

func TestManyStreams(t *testing.T) {
	t.Parallel()
	s, _ := one(t, echo)
	var all sync.WaitGroup
	for range 300 {
		all.Go(func() {
			conn, err := s.Dial(t.Context(), "a", "tcp", tunnelwire.Kubelet)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for range 3 {
				if err := echoes(conn, random(100_000)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
