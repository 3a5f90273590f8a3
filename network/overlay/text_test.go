package overlay

import (
	"fmt"
	"slices"
	"strings"
)

// text lists all that was found in order. The device is called by its name: its
// number changes when it is made again.
func (f kernelState) text() string {
	var lines []string
	for key, h := range f.routes {
		line := fmt.Sprintf("%s %s", key, h)
		if f.device != nil && f.device.index == h.link {
			line = strings.Replace(line, fmt.Sprintf(" dev %d", h.link), " dev "+f.device.name, 1)
		}
		lines = append(lines, line)
	}
	for addr, m := range f.neighs {
		lines = append(lines, fmt.Sprintf("neigh %s lladdr %s", addr, m))
	}
	for e := range f.fdb {
		lines = append(lines, e.String())
	}
	if f.device != nil {
		lines = append(lines, f.device.String())
	}
	slices.Sort(lines)
	return strings.Join(append(lines, ""), "\n")
}

func (d device) String() string {
	text := fmt.Sprintf("link %s vni %d port %d local %s parent %d mac %s mtu %d addrs %s", d.name, d.vni, d.port, d.local, d.parent, d.mac, d.mtu, d.addrs)
	for _, property := range []struct {
		is   bool
		word string
	}{
		{!d.up, "down"}, {d.learning, "learning"}, {d.floods, "floods"}, {d.strictRPFilter, "strict"}, {d.acceptsRA, "accepts-ra"}, {!d.txChecksum, "software-checksums"},
	} {
		if property.is {
			text += " " + property.word
		}
	}
	return text
}
