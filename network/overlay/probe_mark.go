package overlay

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// provisionalAlias is the alias of a link whose checksum offload is off only while a
// probe looks what comes of it. A brink that is killed then leaves both, and the
// next one sees that the offload was not meant to stay off; the kernel keeps the
// alias as long as the link. Given up: a file, which would outlive the link.
const provisionalAlias = "brink: checksum offload is off for a probe"

// provisional marks a link. It acts in the network namespace of the thread that
// opened it.
type provisional struct {
	handle *netlink.Handle
	link   string
	before string // the link's alias
}

func openProvisional(link string) (*provisional, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink: %w", err)
	}
	return &provisional{handle: handle, link: link}, nil
}

func (p *provisional) close() { p.handle.Close() }

func (p *provisional) alias() (string, error) {
	link, err := p.handle.LinkByName(p.link)
	if err != nil {
		return "", fmt.Errorf("finding link %s: %w", p.link, err)
	}
	return link.Attrs().Alias, nil
}

func (p *provisional) setAlias(alias string) error {
	link, err := p.handle.LinkByName(p.link)
	if err == nil {
		err = p.handle.LinkSetAlias(link, alias)
	}
	if err != nil {
		return fmt.Errorf("marking link %s: %w", p.link, err)
	}
	return nil
}

// begin comes before the offload is switched off, end after what was found out is
// in force.
func (p *provisional) begin() error {
	has, err := p.alias()
	if err != nil {
		return err
	}
	if has != provisionalAlias {
		p.before = has
	}
	return p.setAlias(provisionalAlias)
}

func (p *provisional) end() error { return p.setAlias(p.before) }

// undo switches on again what a probe had off that was killed.
func (p *provisional) undo(o checksumOffload) error {
	has, err := p.alias()
	if err != nil || has != provisionalAlias {
		return err
	}
	if err := o.switchOn(); err != nil {
		return err
	}
	return p.end()
}
