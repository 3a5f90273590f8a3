package nodeaddr

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kind is what stands behind an interface.
type kind int

const (
	// unknown may lead to other machines: a VLAN, a bond, the veth of a machine
	// that is a container.
	unknown kind = iota
	// physical has a device: a card, a dongle, or what a hypervisor offers.
	physical
	// virtual leads to containers or into a tunnel.
	virtual
)

// tunnels are kinds of interfaces, by the kernel's DEVTYPE, that only lead to
// what someone has set up over another one.
var tunnels = []string{"vxlan", "geneve", "wireguard", "ipip", "gre"}

// kindOf asks sysfs, mounted on sys. It may be mounted for another network
// namespace and not know the interface, which is unknown then.
func kindOf(sys, name string) kind {
	dir := filepath.Join(sys, "class/net", name)
	switch {
	case exists(filepath.Join(dir, "bridge")):
		return bridgeKind(sys, dir)
	case exists(filepath.Join(dir, "device")):
		return physical
	case exists(filepath.Join(dir, "tun_flags")), strings.HasPrefix(name, "veth"), slices.Contains(tunnels, deviceType(dir)):
		return virtual
	}
	return unknown
}

// bridgeKind tells a bridge of containers from one that a network card is part
// of, which has the machine's own address.
func bridgeKind(sys, dir string) kind {
	ports, _ := os.ReadDir(filepath.Join(dir, "brif"))
	for _, port := range ports {
		if kindOf(sys, port.Name()) == physical {
			return unknown
		}
	}
	return virtual
}

// deviceType is the value of DEVTYPE=vxlan in the interface's uevent.
func deviceType(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, "uevent"))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVTYPE="); ok {
			return value
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
