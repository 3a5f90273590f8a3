package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corelisters "k8s.io/client-go/listers/core/v1"

	"brink/internal/wire/tunnelwire"
)

type nodeList struct {
	corelisters.NodeListerExpansion
	nodes []*corev1.Node
}

func (l nodeList) List(labels.Selector) ([]*corev1.Node, error) { return l.nodes, nil }

func (l nodeList) Get(name string) (*corev1.Node, error) {
	for _, node := range l.nodes {
		if node.Name == name {
			return node, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "nodes"}, name)
}

type podList []*corev1.Pod

func (l podList) List(labels.Selector) ([]*corev1.Pod, error) { return l, nil }

func (l podList) Pods(string) corelisters.PodNamespaceLister { return nil }

// hostPod is a pod in a node's network, with a port unless that is 0.
func hostPod(node string, port int32) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{NodeName: node, HostNetwork: true, Containers: []corev1.Container{{}}}}
	if port != 0 {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: port}}
	}
	return p
}

func node(name, ip string, cidrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: cidrs}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: ip}}
	return n
}

// fromConn is a connection from an address.
type fromConn struct {
	net.Conn
	from string
}

func (c fromConn) RemoteAddr() net.Addr { return addr(net.JoinHostPort(c.from, "1234")) }

// fakeTunnel adds a node's tunnel whose far end answers each target with its name
// and ends.
func (s *Server) fakeTunnel(t *testing.T, name string) *session {
	t.Helper()
	return s.fakeTunnelFrom(t, name, "192.0.2.1")
}

func (s *Server) fakeTunnelFrom(t *testing.T, name, from string) *session {
	t.Helper()
	near, far := net.Pipe()
	go (&http2.Server{}).ServeConn(far, &http2.ServeConnOpts{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Host, ":1") {
			http.Error(w, "not that one", tunnelwire.StatusRefused)
			return
		}
		io.WriteString(w, name+" "+r.Host)
	})})
	added, err := newSession(s.transport, fromConn{near, from})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { added.conn.Close() })
	s.add(name, added)
	return added
}

// listening answers "direct" to whoever dials it.
func listening(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "direct")
			conn.Close()
		}
	}()
	return netip.MustParseAddrPort(listener.Addr().String())
}

// routes returns a server with nodes of all kinds. 127.0.0.1 is what can be dialed directly
// here.
func routes(t *testing.T, here netip.AddrPort) *Server {
	s := New(Config{OwnNode: "own", OwnIPs: []netip.Addr{netip.MustParseAddr("127.0.0.5")}, OwnAPI: here, Patience: 10 * time.Millisecond})
	s.Use(nodeList{nodes: []*corev1.Node{
		node("own", "127.0.0.1", "127.0.1.0/24"),
		node("far", "192.0.2.7", "10.42.1.0/24", "fd42:1::/64"),
		node("near", "127.0.0.3", "127.0.3.0/24"), // has no tunnel, and needs none
		node("twin1", "192.168.1.10"), node("twin2", "192.168.1.10"),
		node("lone", "192.168.1.20"), node("gone", "192.168.1.20"),
		node("thief", "192.0.2.9"), node("owner", "192.0.2.9"), node("liar", "192.0.2.9"),
		node("router", "192.0.2.10"), node("behind", "192.0.2.10"),
		node("shadow", "127.0.0.1"),  // has the address of our own
		node("grabber", "127.0.0.5"), // has the server's, that is no node
		node("drawer", "127.0.0.7"),  // has one of a machine that is no node
	}}, podList{
		hostPod("twin1", 80), hostPod("twin2", 80), hostPod("twin2", 9100), hostPod("lone", 0), hostPod("gone", 0), hostPod("drawer", 0),
	})
	for name, from := range map[string]string{
		"far": "192.0.2.7", "twin1": "198.51.100.1", "twin2": "198.51.100.2", "lone": "198.51.100.1", "shadow": "127.0.0.1", "grabber": "127.0.0.5",
		"drawer": "192.0.2.8", "thief": "192.0.2.66", "owner": "::ffff:192.0.2.9",
		"router": "192.0.2.10", "behind": "192.0.2.10",
	} {
		s.fakeTunnelFrom(t, name, from)
	}
	return s
}

// TestRoutes: which way leads where.
func TestRoutes(t *testing.T) {
	t.Parallel()
	here := listening(t)
	s := routes(t, here)
	port := here.String()[len("127.0.0.1"):]
	tests := []struct {
		dial func(context.Context, string, string) (net.Conn, error)
		to   string
		want string
	}{
		{s.DialKubelet, "own" + port, "direct"},
		{s.DialKubelet, "far:10250", "far kubelet"},
		{s.DialKubelet, "twin2:10250", "twin2 kubelet"},
		{s.DialKubelet, "shadow" + port, "shadow kubelet"},
		{s.DialKubelet, "192.0.2.7:10250", "far 192.0.2.7:10250"}, // the user's order of addresses
		{s.DialKubelet, "localhost" + port, "direct"},             // not a node
		{s.DialPod, "10.42.1.5:80", "far 10.42.1.5:80"},
		{s.DialPod, "[fd42:1::5]:80", "far [fd42:1::5]:80"},
		{s.DialPod, "[::ffff:10.42.1.5]:80", "far 10.42.1.5:80"},
		{s.DialPod, "192.0.2.7:9100", "far 192.0.2.7:9100"}, // in the host's network
		{s.DialPod, "far:9100", "far 192.0.2.7:9100"},       // proxying to another port of a node
		{s.DialPod, "own" + port, "direct"},
		{s.DialPod, "127.0.0.1" + port, "direct"},
		{s.DialPod, "192.0.2.9:80", "owner 192.0.2.9:80"},
		{s.DialPod, "192.168.1.20:80", "lone 192.168.1.20:80"},      // the one that is there
		{s.DialPod, "192.168.1.10:9100", "twin2 192.168.1.10:9100"}, // the one whose pod has it
		{s.DialPod, "kubernetes.default.svc:443", "direct"},         // this server
		{s.DialPod, "kubernetes.default.svc", "direct"},             // as URLs spell it
	}
	for _, tt := range tests {
		conn, err := tt.dial(t.Context(), "tcp", tt.to)
		if err != nil {
			t.Errorf("%s: %v", tt.to, err)
			continue
		}
		got, err := io.ReadAll(conn)
		if string(got) != tt.want || err != nil {
			t.Errorf("%s: arrived at %q (%v), want %q", tt.to, got, err, tt.want)
		}
		conn.Close()
	}
}

// TestNoRoutes: where no way leads, and what is said of it.
func TestNoRoutes(t *testing.T) {
	t.Parallel()
	s := routes(t, listening(t))
	const unproven = " all say that they have this address, and their tunnels do not prove whose it is: kubectl delete node removes one that is gone"
	bad := []struct {
		dial     func(context.Context, string, string) (net.Conn, error)
		to, want string
	}{
		{s.DialPod, "192.168.1.10:80", "dialing 192.168.1.10:80: nodes twin1, twin2" + unproven},
		{s.DialPod, "192.0.2.10:80", "dialing 192.0.2.10:80: nodes router, behind" + unproven},
		{s.DialPod, "127.0.0.5:1", "dial tcp 127.0.0.5:1: connect: connection refused"},
		{s.DialPod, "127.0.0.7:1", "dial tcp 127.0.0.7:1: connect: connection refused"}, // directly, whatever a node says
		{s.DialPod, "10.42.1.5:1", "reaching node far by its tunnel: not that one"},
		{s.DialKubelet, "near:1", "reaching node near: it has no tunnel to this server, and directly: dial tcp 127.0.0.3:1: connect: connection refused"},
		{s.DialKubelet, "own:1", "reaching node own: dial tcp 127.0.0.1:1: connect: connection refused"},
	}
	for _, tt := range bad {
		if _, err := tt.dial(t.Context(), "tcp", tt.to); err == nil || err.Error() != tt.want {
			t.Errorf("%s: got %v, want %s", tt.to, err, tt.want)
		}
	}
}

// TestWaitsForTunnel: a server that has just started hears of its agents a moment
// later.
func TestWaitsForTunnel(t *testing.T) {
	t.Parallel()
	s := New(Config{Patience: 20 * time.Second})
	s.Use(nodeList{nodes: []*corev1.Node{node("late", "127.0.0.1")}}, nil)
	got := make(chan string)
	go func() {
		conn, err := s.DialKubelet(t.Context(), "tcp", "late:1")
		if err != nil {
			got <- err.Error()
			return
		}
		all, _ := io.ReadAll(conn)
		got <- string(all)
	}()
	time.Sleep(50 * time.Millisecond)
	s.fakeTunnel(t, "other")
	s.fakeTunnel(t, "late")
	if got := <-got; got != "late kubelet" {
		t.Error(got)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s := New(Config{Patience: time.Hour})
	s.Use(nodeList{nodes: []*corev1.Node{node("late", "127.0.0.1")}}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.DialKubelet(ctx, "tcp", "late:1"); !errors.Is(err, ErrNoTunnel) {
		t.Errorf("got %v", err)
	}
}

// TestSilentAgent: a tunnel whose other end has vanished is given up.
func TestSilentAgent(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	s.transport = newTransport(20*time.Millisecond, 50*time.Millisecond)
	near, far := net.Pipe()
	go io.Copy(io.Discard, far)
	lost, err := newSession(s.transport, near)
	if err != nil {
		t.Fatal(err)
	}
	s.add("a", lost)
	select {
	case <-lost.conn.done:
	case <-time.After(20 * time.Second):
		t.Fatal("lives on")
	}
	if s.Has("a") {
		t.Error("is still used")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	var all []*session
	for range maxSessions + 1 {
		all = append(all, s.fakeTunnel(t, "a"))
	}
	select {
	case <-all[0].conn.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the oldest lives on")
	}
	for _, session := range all[1:] {
		if !session.client.CanTakeNewRequest() {
			t.Error("another than the oldest has ended")
		}
	}
	s.Close()
	if s.add("a", all[1]) {
		t.Error("a server that is closed takes tunnels")
	}
}

// TestSources: where a node's tunnels come from, as long as they are there.
func TestSources(t *testing.T) {
	t.Parallel()
	s := New(Config{})
	first, second := s.fakeTunnelFrom(t, "a", "192.0.2.1"), s.fakeTunnelFrom(t, "a", "2001:db8::1")
	s.fakeTunnelFrom(t, "a", "2001:db8::1")
	want := func(texts ...string) {
		t.Helper()
		var got []string
		for _, from := range s.Sources("a") {
			got = append(got, from.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, texts) {
			t.Errorf("comes from %v, want %v", got, texts)
		}
	}
	want("192.0.2.1", "2001:db8::1")
	s.remove("a", second)
	first.conn.Close()
	want("2001:db8::1")
	s.Drop("a")
	want()
}
