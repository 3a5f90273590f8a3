// Package testnet gives tests network namespaces, and machines in them: nodes with a
// pod each, on switches, all of them gone with the test. Only tests import it.
package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"brink/internal/testneed"
	"brink/network/rtnl"
)

// Patience is how long a test waits for what has to happen.
const Patience = 30 * time.Second

// Enter moves the test, which is a goroutine of its own, into a new
// network namespace. Its thread is never unlocked: it dies with the test, and
// the namespace, with all links and rules in it, follows.
func Enter(t *testing.T) netns.NsHandle {
	t.Helper()
	testneed.Root(t)
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	Up(t, "lo")
	return ns
}

// New makes a namespace that lives as long as its handle.
func New(t *testing.T) netns.NsHandle {
	t.Helper()
	made := make(chan netns.NsHandle, 1)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.New()
		if err != nil {
			t.Error(err)
			ns = netns.None()
		}
		made <- ns
	}()
	ns := <-made
	if !ns.IsOpen() {
		t.FailNow()
	}
	t.Cleanup(func() { ns.Close() })
	Inside(t, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return ns
}

// Start runs f in a namespace, on a thread that dies afterwards.
func Start(ns netns.NsHandle, f func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errors.New("the test gave up") // t.Fatal in f ends this goroutine
		defer func() { done <- err }()
		if enterErr := netns.Set(ns); enterErr != nil {
			err = enterErr
			return
		}
		err = f()
	}()
	return done
}

// Background runs f in a namespace until stop is called or the test ends, and returns
// when f is ready. An error of f fails the test.
func Background(t *testing.T, ns netns.NsHandle, f func(ctx context.Context, ready func()) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	isReady, hasEnded := make(chan struct{}), false
	done := Start(ns, func() error { return f(ctx, func() { close(isReady) }) })
	stop = sync.OnceFunc(func() {
		if cancel(); hasEnded {
			return
		}
		if err := <-done; err != nil {
			t.Errorf("in the background: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-isReady:
	case err := <-done:
		hasEnded = true
		t.Fatalf("in the background, before it was ready: %v", err)
	case <-time.After(Patience):
		t.Fatal("what runs in the background does not get ready")
	}
	return stop
}

// Inside runs f in a namespace and ends the test when it fails.
func Inside(t *testing.T, ns netns.NsHandle, f func() error) {
	t.Helper()
	if err := <-Start(ns, f); err != nil {
		t.Fatal(err)
	}
}

// Must ends the test when there is an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Up sets a link of the test's own namespace up.
func Up(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	Must(t, err)
	Must(t, netlink.LinkSetUp(link))
	return link
}

// AddBridge makes a bridge that is up.
func AddBridge(t *testing.T, name string, addrs ...string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	Must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link := Up(t, name)
	for _, addr := range addrs {
		Must(t, AddAddr(link, addr))
	}
	return link
}

// AddAddr skips duplicate address detection, which would keep an IPv6 address
// from being used for a second or two.
func AddAddr(link netlink.Link, cidr string) error {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags |= unix.IFA_F_NODAD
	}
	return netlink.AddrAdd(link, addr)
}

// Connect makes a veth pair: name here, eth0 with the addresses and default
// routes via the gateways in ns.
func Connect(t *testing.T, name string, ns netns.NsHandle, addrs, gateways []string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	Must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}))
	near := Up(t, name)
	Inside(t, ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			if err := AddAddr(eth0, addr); err != nil {
				return fmt.Errorf("address %s: %w", addr, err)
			}
		}
		if err := netlink.LinkSetUp(eth0); err != nil {
			return err
		}
		for _, gateway := range gateways {
			if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: net.ParseIP(gateway)}); err != nil {
				return fmt.Errorf("route via %s: %w", gateway, err)
			}
		}
		return nil
	})
	return near
}

// AddRoute adds a route by a gateway on link.
func AddRoute(link netlink.Link, dst, gateway string) error {
	_, prefix, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefix, Gw: net.ParseIP(gateway)})
}

// Listen answers each TCP connection in ns with the address it came from.
func Listen(t *testing.T, ns netns.NsHandle, addr netip.AddrPort) {
	t.Helper()
	var l net.Listener
	Inside(t, ns, func() (err error) {
		l, err = net.Listen("tcp", addr.String())
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
			conn.Close()
		}
	}()
}

// WriteSetting writes a kernel setting of the test's own namespace.
func WriteSetting(t *testing.T, key, value string) {
	t.Helper()
	Must(t, os.WriteFile("/proc/sys/"+key, []byte(value), 0o644))
}

// WantSetting checks one.
func WantSetting(t *testing.T, key, want string) {
	t.Helper()
	data, err := os.ReadFile("/proc/sys/" + key)
	if got := strings.TrimSpace(string(data)); err != nil || got != want {
		t.Errorf("%s is %q, want %q (%v)", key, got, want, err)
	}
}

// Run runs a program and returns what it printed.
func Run(name string, args ...string) ([]byte, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return out, err
}

// Sh runs a shell command in a namespace.
func Sh(t *testing.T, ns netns.NsHandle, command string) string {
	t.Helper()
	var out []byte
	Inside(t, ns, func() (err error) {
		out, err = Run("sh", "-ec", command)
		return err
	})
	return string(out)
}

// NFT runs nft in the test's own namespace.
func NFT(t *testing.T, args ...string) string {
	t.Helper()
	out, err := Run("nft", args...)
	Must(t, err)
	return string(out)
}

// Eventually waits for Patience at most.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	if !Within(ok) {
		t.Fatalf("%s: not in %s", what, Patience)
	}
}

// Within reports whether ok became true in Patience.
func Within(ok func() bool) bool {
	for deadline := time.Now().Add(Patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// LinkNames are those of the test's own namespace.
func LinkNames(t *testing.T) string {
	t.Helper()
	links, err := rtnl.Links()
	Must(t, err)
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

// AddVxlan makes a device that nothing uses.
func AddVxlan(t *testing.T, name string, id int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	Must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: id, Port: 4788 + id}))
}
