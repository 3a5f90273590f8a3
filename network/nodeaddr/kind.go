package nodeaddr

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kind is what an interface is.
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

// tunnels are the DEVTYPEs of the kernel's interfaces that only lead to a network that
// somebody has set up on top of another interface.
var tunnels = []string{"vxlan", "geneve", "wireguard", "ipip", "gre"}

// kindOf reads the kind from sysfs, which is mounted on sys. It may be mounted for another
// network namespace and lack the interface, whose kind is unknown then.
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

// bridgeKind is virtual for a bridge of containers, and unknown for one with a network
// card, which has the machine's own address.
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
