package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// privateNetns moves the test, which is a goroutine of its own, into a new
// network namespace. Its thread is never unlocked: it dies with the test, and
// the namespace, with all links and rules in it, follows.
func privateNetns(t *testing.T) netns.NsHandle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	up(t, "lo")
	return ns
}

// otherNetns makes a namespace that lives as long as its handle.
func otherNetns(t *testing.T) netns.NsHandle {
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
	inside(t, ns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return ns
}

// start runs f in a namespace, on a thread that dies afterwards.
func start(ns netns.NsHandle, f func() error) <-chan error {
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

func inside(t *testing.T, ns netns.NsHandle, f func() error) {
	t.Helper()
	if err := <-start(ns, f); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func up(t *testing.T, name string) netlink.Link {
	t.Helper()
	link, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(link))
	return link
}

func addBridge(t *testing.T, name string, addrs ...string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link := up(t, name)
	for _, addr := range addrs {
		must(t, addAddr(link, addr))
	}
	return link
}

// addAddr skips duplicate address detection, which would keep an IPv6 address
// from being used for a second or two.
func addAddr(link netlink.Link, cidr string) error {
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags |= unix.IFA_F_NODAD
	}
	return netlink.AddrAdd(link, addr)
}

// connect makes a veth pair: name here, eth0 with the addresses and default
// routes via the gateways in ns.
func connect(t *testing.T, name string, ns netns.NsHandle, addrs, gateways []string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}))
	near := up(t, name)
	inside(t, ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			if err := addAddr(eth0, addr); err != nil {
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

func addRoute(link netlink.Link, dst, gateway string) error {
	_, prefix, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: prefix, Gw: net.ParseIP(gateway)})
}

// listen answers each TCP connection in ns with the address it came from.
func listen(t *testing.T, ns netns.NsHandle, addr netip.AddrPort) {
	t.Helper()
	var l net.Listener
	inside(t, ns, func() (err error) {
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

func writeSetting(t *testing.T, key, value string) {
	t.Helper()
	must(t, os.WriteFile("/proc/sys/"+key, []byte(value), 0o644))
}

func wantSetting(t *testing.T, key, want string) {
	t.Helper()
	data, err := os.ReadFile("/proc/sys/" + key)
	if got := strings.TrimSpace(string(data)); err != nil || got != want {
		t.Errorf("%s is %q, want %q (%v)", key, got, want, err)
	}
}

func run(name string, args ...string) ([]byte, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return out, err
}
