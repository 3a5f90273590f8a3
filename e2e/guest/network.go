package guest

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"brink/e2e/machine"
)

// subnet is every network's: they do not see each other.
var subnet = netip.MustParsePrefix("10.77.0.0/24")

// Net is a network of guests: a namespace with a bridge, which has the first address.
// There is no way out of it.
type Net struct {
	holder *machine.Holder
	given  atomic.Uint32
}

// Host is the address at which guests reach the harness.
func (n *Net) Host() netip.Addr { return subnet.Addr().Next() }

// NewNet makes a network that goes with the test.
func NewNet(t testing.TB) *Net {
	t.Helper()
	n := &Net{}
	script := machine.PlainBridges + fmt.Sprintf(`
ip link add br0 address 02:00:00:00:fb:01 type bridge
ip address add %s/%d dev br0
ip link set br0 up`, n.Host(), subnet.Bits())
	var err error
	if n.holder, err = machine.HoldNetwork(script); err != nil {
		t.Fatalf("making a network of guests: %v", err)
	}
	t.Cleanup(n.holder.Close)
	return n
}

// next is an address that nobody has yet.
func (n *Net) next() netip.Addr {
	bytes := subnet.Addr().As4()
	bytes[3] = byte(1 + n.given.Add(1))
	return netip.AddrFrom4(bytes)
}

// Netns is the network's namespace, from which guests are reached.
func (n *Net) Netns() machine.Netns { return n.holder.Netns() }

// Serve serves a directory to the guests, and to nobody else, and returns its URL.
func (n *Net) Serve(t testing.TB, dir string) (url string) {
	t.Helper()
	return n.ServeHandler(t, http.FileServer(http.Dir(dir)))
}

// ServeHandler is Serve for a test that wants to answer by itself: to count requests,
// or to break them off.
func (n *Net) ServeHandler(t testing.TB, handler http.Handler) (url string) {
	t.Helper()
	l, err := n.Netns().Listen(net.JoinHostPort(n.Host().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return "http://" + l.Addr().String()
}
