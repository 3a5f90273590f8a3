package overlay

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// probeAlias is the alias of a link whose checksum offload is off only for the time of a
// probe. A brink that is killed then leaves both, and the next one sees that the offload
// was not meant to stay off. The kernel keeps the alias as long as the link, which a file
// would outlive.
const probeAlias = "brink: checksum offload is off for a probe"

// probeMark marks a link while a probe has its offload off. It acts in the network
// namespace of the thread that opened it.
type probeMark struct {
	handle *netlink.Handle
	link   string
	before string // the link's alias
}

func openProbeMark(link string) (*probeMark, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	return &probeMark{handle: handle, link: link}, nil
}

func (m *probeMark) close() { m.handle.Close() }

func (m *probeMark) alias() (string, error) {
	link, err := m.handle.LinkByName(m.link)
	if err != nil {
		return "", fmt.Errorf("finding link %s: %w", m.link, err)
	}
	return link.Attrs().Alias, nil
}

func (m *probeMark) setAlias(alias string) error {
	link, err := m.handle.LinkByName(m.link)
	if err == nil {
		err = m.handle.LinkSetAlias(link, alias)
	}
	if err != nil {
		return fmt.Errorf("marking link %s: %w", m.link, err)
	}
	return nil
}

// begin marks the link, before its offload is switched off.
func (m *probeMark) begin() error {
	has, err := m.alias()
	if err != nil {
		return err
	}
	if has != probeAlias {
		m.before = has
	}
	return m.setAlias(probeAlias)
}

// end removes the mark, after what was found out is in force.
func (m *probeMark) end() error { return m.setAlias(m.before) }

// restore switches on again what a probe had switched off that was killed.
func (m *probeMark) restore(o checksumOffload) error {
	has, err := m.alias()
	if err != nil || has != probeAlias {
		return err
	}
	if err := o.switchOn(); err != nil {
		return err
	}
	return m.end()
}
