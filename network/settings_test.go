package network

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestSettings(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	keys := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding",
		"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"}
	for _, key := range keys {
		writeSetting(t, key, "0")
	}
	must(t, applySettings(dualStack(t).withDefaults()))
	for _, key := range keys {
		wantSetting(t, key, "1")
	}
}

// TestRouterAdvertisements has links with a default route learnt from an
// advertisement, without one yet, whose owner handles them in user space, and two
// that lead to pods, which must never be believed.
func TestRouterAdvertisements(t *testing.T) {
	t.Parallel()
	ns := privateNetns(t)
	writeSetting(t, "net/ipv6/conf/all/forwarding", "0")
	learn := func(name, gateway string) {
		t.Helper()
		link := up(t, name)
		must(t, addAddr(link, gateway+"2/64"))
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Protocol: unix.RTPROT_RA,
			Gw: net.ParseIP(gateway + "1"), Priority: 100 + link.Attrs().Index}))
	}
	acceptRA := func(name, value string) { writeSetting(t, "net/ipv6/conf/"+name+"/accept_ra", value) }
	addVxlan(t, "uplink", 1)
	learn("uplink", "2001:db8:1::")
	addVxlan(t, "networkd", 2)
	learn("networkd", "2001:db8:2::")
	acceptRA("networkd", "0")
	addVxlan(t, "quiet", 3)
	// A home server's uplink is often a bridge, a container's a veth.
	addBridge(t, "br0")
	learn("br0", "2001:db8:4::")
	connect(t, "veth0", otherNetns(t), nil, nil)
	learn("veth0", "2001:db8:5::")
	addBridge(t, "brink0")
	learn("brink0", "2001:db8:6::")
	connect(t, "vethpod", otherNetns(t), nil, nil)
	for _, name := range []string{"uplink", "quiet", "br0", "veth0", "brink0", "vethpod"} {
		acceptRA(name, "1")
	}
	runIn(t, ns, dualStack(t))
	for name, want := range map[string]string{
		"uplink": "2", "networkd": "0", "quiet": "2", "br0": "2", "veth0": "2", "brink0": "1", "vethpod": "1", "lo": "1",
	} {
		wantSetting(t, "net/ipv6/conf/"+name+"/accept_ra", want)
	}
	addVxlan(t, "modem", 7) // plugged in later
	eventually(t, "advertisements accepted", func() bool {
		value, err := get("net/ipv6/conf/modem/accept_ra")
		return err == nil && value == "2"
	})
}

func addVxlan(t *testing.T, name string, id int) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: id, Port: 4788 + id}))
	up(t, name)
}

func TestReadOnlySettings(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	writeSetting(t, "net/ipv4/ip_forward", "0")
	// The thread dies with the test and takes its mounts along.
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	err := applySettings(dualStack(t).withDefaults())
	want := "kernel setting net.ipv4.ip_forward is 0, must be 1, and cannot be written here (read-only file system): " +
		"set it outside this container, sysctl -w net.ipv4.ip_forward=1"
	if err == nil || err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestReadOnlySettingsThatAreRight(t *testing.T) {
	t.Parallel()
	privateNetns(t)
	must(t, applySettings(dualStack(t).withDefaults()))
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
	must(t, unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	must(t, applySettings(dualStack(t).withDefaults()))
}
