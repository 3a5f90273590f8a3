package network

import (
	"log/slog"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"brink/network/sysctl"
	"brink/network/testnet"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	keys := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding",
		"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}
	for _, key := range keys {
		testnet.WriteSetting(t, key, "0")
	}
	testnet.Must(t, applySettings(dualStack(t), slog.Default()))
	for _, key := range keys {
		testnet.WantSetting(t, key, "1")
	}
}

// TestRouterAdvertisements has links with a default route learnt from an
// advertisement, without one yet, whose owner handles them in user space, and two
// that lead to pods, which must never be believed.
func TestRouterAdvertisements(t *testing.T) {
	t.Parallel()
	ns := testnet.Enter(t)
	testnet.WriteSetting(t, "net/ipv6/conf/all/forwarding", "0")
	learn := func(name, gateway string) {
		t.Helper()
		link := testnet.Up(t, name)
		testnet.Must(t, testnet.AddAddr(link, gateway+"2/64"))
		testnet.Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Protocol: unix.RTPROT_RA,
			Gw: net.ParseIP(gateway + "1"), Priority: 100 + link.Attrs().Index}))
	}
	acceptRA := func(name, value string) { testnet.WriteSetting(t, "net/ipv6/conf/"+name+"/accept_ra", value) }
	testnet.AddVxlan(t, "uplink", 1)
	learn("uplink", "2001:db8:1::")
	testnet.AddVxlan(t, "networkd", 2)
	learn("networkd", "2001:db8:2::")
	acceptRA("networkd", "0")
	testnet.AddVxlan(t, "quiet", 3)
	// A home server's uplink is often a bridge, a container's a veth.
	testnet.AddBridge(t, "br0")
	learn("br0", "2001:db8:4::")
	testnet.Connect(t, "veth0", testnet.New(t), nil, nil)
	learn("veth0", "2001:db8:5::")
	testnet.AddBridge(t, "brink0")
	learn("brink0", "2001:db8:6::")
	testnet.Connect(t, "vethpod", testnet.New(t), nil, nil)
	for _, name := range []string{"uplink", "quiet", "br0", "veth0", "brink0", "vethpod"} {
		acceptRA(name, "1")
	}
	runIn(t, ns, dualStack(t))
	for name, want := range map[string]string{
		"uplink": "2", "networkd": "0", "quiet": "2", "br0": "2", "veth0": "2", "brink0": "1", "vethpod": "1", "lo": "1",
	} {
		testnet.WantSetting(t, "net/ipv6/conf/"+name+"/accept_ra", want)
	}
	testnet.AddVxlan(t, "modem", 7) // plugged in later
	testnet.Eventually(t, "advertisements accepted", func() bool {
		value, err := sysctl.Get("net/ipv6/conf/modem/accept_ra")
		return err == nil && value == "2"
	})
}

func TestReadOnlySettings(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	testnet.WriteSetting(t, "net/ipv4/ip_forward", "0")
	// The thread dies with the test and takes its mounts along.
	testnet.Must(t, unix.Unshare(unix.CLONE_NEWNS))
	testnet.Must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	testnet.Must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	testnet.Must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	err := applySettings(dualStack(t), slog.Default())
	want := "kernel setting net.ipv4.ip_forward is 0, must be 1, and cannot be written here (read-only file system): " +
		"set it outside this container, sysctl -w net.ipv4.ip_forward=1"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestReadOnlySettingsThatAreRight(t *testing.T) {
	t.Parallel()
	testnet.Enter(t)
	testnet.Must(t, applySettings(dualStack(t), slog.Default()))
	testnet.Must(t, unix.Unshare(unix.CLONE_NEWNS))
	testnet.Must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	testnet.Must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	testnet.Must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	testnet.Must(t, applySettings(dualStack(t), slog.Default()))
}
