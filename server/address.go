package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"brink/internal/lifecycle"
	"brink/network/nodeaddr"
)

// watchAddresses ends the process when the machine has another address than the server
// was started with, for its service manager to start it again. Pods do not notice.
func (s *Server) watchAddresses(ctx context.Context, ready func()) error {
	w := s.cfg.Addresses
	if !w.MayChange() {
		return w.Run(ctx, ready, nil)
	}
	return w.Run(ctx, ready, newCertified(lifecycle.Logger(ctx), w.First()[0]).check)
}

// certified is the first address of a server. The server's certificate is made for it at the
// start, and pods and agents find the API there. The server has moved when no link has that
// address any more and there is another one: the DHCP server gives another, or the server was
// started without a network, with its last address. A default route that moves to another link
// changes nothing, nor does a second family.
type certified struct {
	log   *slog.Logger
	first nodeaddr.Address
	late  bool // the server started with its last address, which no link has had yet
}

func newCertified(log *slog.Logger, first nodeaddr.Address) *certified {
	return &certified{log: log, first: first, late: first.Gone}
}

// check returns an error if the server has moved, by the addresses that the machine has now.
func (c *certified) check(found []nodeaddr.Address) error {
	now := sameFamily(found, c.first.IP)
	switch {
	case now.Gone || !now.IP.IsValid(): // the cable is out
	case now.IP == c.first.IP:
		if c.late {
			c.log.Info("the network has come with the node's last address", "address", c.first.IP)
		}
		c.late = false
	default:
		return fmt.Errorf("this server was started with %s of %s, which is in its certificate and what pods ask, and is at %s of %s now: start brink again",
			c.first.IP, c.first.Link, now.IP, now.Link)
	}
	return nil
}

// sameFamily returns the address of the family of ip, the zero Address if there is none.
func sameFamily(found []nodeaddr.Address, ip netip.Addr) nodeaddr.Address {
	for _, a := range found {
		if a.IP.Is4() == ip.Is4() {
			return a
		}
	}
	return nodeaddr.Address{}
}
