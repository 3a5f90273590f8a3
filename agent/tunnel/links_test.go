package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"brink/internal/testgoroutines"
	"brink/internal/testwait"
	"brink/internal/wire/tunnelwire"
)

// TestServerReturns: the tunnel is there again soon after its server.
func TestServerReturns(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	first := ca.serve("127.0.0.1:0")
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo)}, first.addr)
	testwait.Until(t, "the tunnel", func() bool { return first.Has("a") })
	conn := dial(t, first.Server, "a")
	first.stop()
	if _, err := conn.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the end of the tunnel reads like the end of the stream: %v", err)
	}
	testwait.Until(t, "loss", func() bool { return !tunnels.Status()[0].Up })
	second := ca.serve(first.addr)
	back := time.Now()
	testwait.Until(t, "the return", func() bool { return second.Has("a") })
	if took := time.Since(back); took > 3*time.Second {
		t.Errorf("the tunnel took %s to return", took)
	}
	mustEcho(t, dial(t, second.Server, "a"), []byte("hello"))
}

func TestServersComeAndGo(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	x, y := ca.serve("127.0.0.1:0"), ca.serve("127.0.0.1:0")
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo)}, x.addr)
	testwait.Until(t, "the tunnel to x", func() bool { return x.Has("a") })
	kept := dial(t, x.Server, "a")
	tunnels.SetServers([]string{x.addr, y.addr})
	testwait.Until(t, "the tunnel to y", func() bool { return y.Has("a") })
	mustEcho(t, dial(t, y.Server, "a"), []byte("hello"))
	mustEcho(t, kept, []byte("still here"))
	tunnels.SetServers([]string{y.addr})
	testwait.Until(t, "the end of the tunnel to x", func() bool { return !x.Has("a") })
	mustEcho(t, dial(t, y.Server, "a"), []byte("hello"))
	if status := tunnels.Status(); len(status) != 1 || status[0].Server != y.addr {
		t.Errorf("status is %+v", status)
	}
}

// TestAStrangerThatAnnouncesItself was away when the node started: it is dialed when it
// is there, not when its turn comes in an hour.
func TestAStrangerThatAnnouncesItself(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	known := ca.serve("127.0.0.1:0")
	var away atomic.Bool
	var asked atomic.Int32
	away.Store(true)
	stranger := ca.serve("127.0.0.1:0")
	dialer := func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == stranger.addr {
			asked.Add(1)
			if away.Load() {
				return nil, errors.New("not there")
			}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	patient := hasty
	patient.firstDelay, patient.unreachedDelay = time.Hour, 2*time.Hour
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo), Dial: dialer, timing: patient}, known.addr)
	testwait.Until(t, "the tunnel to the known one", func() bool { return known.Has("a") })
	tunnels.SetServers([]string{known.addr, stranger.addr})
	tunnels.Announced([]string{known.addr})
	testwait.Until(t, "the first attempt", func() bool { return asked.Load() > 0 })
	away.Store(false)
	tunnels.Announced([]string{known.addr})
	if time.Sleep(5 * hasty.maxDelay); asked.Load() != 1 || stranger.Has("a") {
		t.Fatalf("it was asked %d times: this test shows nothing", asked.Load())
	}
	tunnels.Announced([]string{known.addr, stranger.addr})
	testwait.Until(t, "the tunnel to who has announced itself", func() bool { return stranger.Has("a") })
	mustEcho(t, dial(t, stranger.Server, "a"), []byte("hello"))
	// What is up is not woken for the day when it is lost.
	testwait.Until(t, "both to be up", func() bool { return tunnels.Status()[0].Up && tunnels.Status()[1].Up })
	tunnels.Announced(nil)
	tunnels.Announced([]string{known.addr, stranger.addr})
	tunnels.mu.Lock()
	defer tunnels.mu.Unlock()
	for server, link := range tunnels.links {
		if len(link.woken) > 0 {
			t.Errorf("the tunnel to %s was woken", server)
		}
	}
}

// freezer forwards connections until it is told to stop, without closing them:
// what a link does that has died.
type freezer struct {
	addr   string
	frozen atomic.Bool
}

func newFreezer(t testing.TB, to string) *freezer {
	f := &freezer{}
	f.addr = target(t, func(in net.Conn) {
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		var both sync.WaitGroup
		both.Go(func() { f.forward(in, out); out.Close() })
		both.Go(func() { f.forward(out, in); in.Close() })
		both.Wait()
	}).String()
	return f
}

func (f *freezer) forward(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if f.frozen.Load() {
			continueWhileOpen(from, buf)
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// continueWhileOpen reads into nowhere.
func continueWhileOpen(from net.Conn, buf []byte) {
	for {
		if _, err := from.Read(buf); err != nil {
			return
		}
	}
}

func TestDeadLink(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	link := newFreezer(t, s.addr)
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo), timing: hasty}, link.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	conn := dial(t, s.Server, "a")
	mustEcho(t, conn, []byte("hello"))
	time.Sleep(2 * (hasty.readIdle + hasty.pingTimeout))
	if !tunnels.Status()[0].Up {
		t.Fatal("a link that is only silent is taken for a dead one")
	}
	link.frozen.Store(true)
	testwait.Until(t, "notice", func() bool { return !tunnels.Status()[0].Up })
	if got := tunnels.Status()[0].Error; got != errSilent.Error() {
		t.Errorf("the reason is %q", got)
	}
	link.frozen.Store(false)
	testwait.Until(t, "the return", func() bool { return tunnels.Status()[0].Up })
	testwait.Until(t, "a connection", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		again, err := s.Dial(ctx, "a", "tcp", tunnelwire.Kubelet)
		if err != nil {
			return false
		}
		defer again.Close()
		return echoes(again, []byte("again")) == nil
	})
}

// TestSeveralTunnels of one node to one server live side by side, and the end of
// one is not that of the others.
func TestSeveralTunnels(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	old := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo)}, s.addr)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	early := dial(t, s.Server, "a")
	young := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, func(c net.Conn) { io.WriteString(c, "young") })}, s.addr)
	testwait.Until(t, "the second tunnel", func() bool { return young.Status()[0].Up })
	testwait.Until(t, "the newest to be used", func() bool {
		conn := dial(t, s.Server, "a")
		conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
		got, _ := io.ReadAll(conn)
		return string(got) == "young"
	})
	young.SetServers(nil)
	testwait.Until(t, "the older to be used", func() bool { return echoes(dial(t, s.Server, "a"), []byte("old")) == nil })
	mustEcho(t, early, []byte("still here"))
	if !old.Status()[0].Up {
		t.Error("the older tunnel has ended")
	}
	s.Drop("a")
	testwait.Until(t, "the end of all", func() bool { _, err := early.Read(make([]byte, 1)); return err != nil })
}

// TestAddressThatLeadsNowhere: while there is a tunnel, an address by which none has
// ever come about is hardly tried; without one, it is again.
func TestAddressThatLeadsNowhere(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	var attempts atomic.Int32
	const nowhere = "192.0.2.1:6443"
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == nowhere {
			attempts.Add(1)
			return nil, errors.New("no route to host")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	tunnels := run(t, Config{TLS: ca.config(ca.node("a")), Kubelet: target(t, echo), Dial: dial, timing: hasty}, s.addr, nowhere)
	testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
	// 20, 40, 80 ms and so on: the tenth pause takes ten seconds.
	time.Sleep(2 * time.Second)
	if n := attempts.Load(); n < 3 || n > 10 {
		t.Errorf("%d attempts beside a tunnel", n)
	}
	before := attempts.Load()
	tunnels.SetServers([]string{nowhere})
	testwait.Until(t, "attempts without a tunnel", func() bool { return attempts.Load() > before+5 })
}

// TestRedial has a tunnel made anew while the old one still works.
func TestRedial(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	tunnels := New(Config{TLS: ca.config(ca.node("till")), timing: hasty})
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { _ = tunnels.Run(ctx, func() {}); close(ended) }()
	tunnels.SetServers([]string{s.addr})
	up := func() time.Time {
		t.Helper()
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			if all := tunnels.Status(); len(all) == 1 && all[0].Up {
				return all[0].Since
			}
		}
		t.Fatalf("no tunnel: %+v", tunnels.Status())
		return time.Time{}
	}
	first := up()
	tunnels.Redial()
	if second := up(); !second.After(first) {
		t.Error("the tunnel is the old one")
	}
	cancel()
	<-ended
}

// TestTheEndOfTunnels: when they end with a stream open, nothing of them is left.
func TestTheEndOfTunnels(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	s := ca.serve("127.0.0.1:0")
	kubelet := target(t, echo)
	isUp, dialed := make(chan struct{}), make(chan net.Conn, 1)
	go func() { // the server's end is not the tunnel's to end
		<-isUp
		conn, err := s.Dial(t.Context(), "a", "tcp", tunnelwire.Kubelet)
		if err != nil {
			t.Error(err)
			close(dialed)
			return
		}
		dialed <- conn
	}()
	testgoroutines.WantNone(t, func() {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		tunnels := New(Config{TLS: ca.config(ca.node("a")), Kubelet: kubelet})
		tunnels.SetServers([]string{s.addr, "127.0.0.1:1"}) // nobody listens at the second
		ended := make(chan error, 1)
		go func() { ended <- tunnels.Run(ctx, func() {}) }()
		testwait.Until(t, "the tunnel", func() bool { return s.Has("a") })
		close(isUp)
		conn, ok := <-dialed
		if !ok {
			return
		}
		t.Cleanup(func() { conn.Close() })
		mustEcho(t, conn, []byte("hello"))
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
