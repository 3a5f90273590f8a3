package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/network/nodeaddr"
)

// addressInterval is how often a server looks whether it has its address still.
const addressInterval = 5 * time.Second

// AddressQuery asks for the addresses of a node with these ranges of pods and Services.
func AddressQuery(l layout.Layout, pods, services []netip.Prefix) nodeaddr.Query {
	return nodeaddr.Query{Families: pods, Inside: slices.Concat(pods, services), File: l.NodeAddresses()}
}

// findAddresses finds those of a server that runs.
func (c Config) findAddresses() ([]nodeaddr.Address, error) {
	return nodeaddr.Stay(AddressQuery(c.Layout, c.Server.ClusterCIDRs, c.Server.ServiceCIDRs), c.Found)
}

// IPsOf are the addresses alone.
func IPsOf(found []nodeaddr.Address) []netip.Addr {
	var out []netip.Addr
	for _, a := range found {
		out = append(out, a.IP)
	}
	return out
}

// FindIPs finds the addresses of a node again and again, begun with those of its
// start if they are known, and remembers them for its next start.
func FindIPs(l layout.Layout, begun []nodeaddr.Address) func(pods, services []netip.Prefix) ([]netip.Addr, error) {
	return func(pods, services []netip.Prefix) ([]netip.Addr, error) {
		found, err := nodeaddr.Stay(AddressQuery(l, pods, services), begun)
		if err != nil {
			return nil, err
		}
		begun = found
		if !areGone(found) {
			err = nodeaddr.Remember(l.NodeAddresses(), found)
		}
		return IPsOf(found), err
	}
}

// areGone tells addresses that the node had the last time and has not now.
func areGone(addrs []nodeaddr.Address) bool {
	return slices.ContainsFunc(addrs, func(a nodeaddr.Address) bool { return a.Gone })
}

// rememberAddresses keeps what was found for a start without a network, and
// tells when this is one.
func rememberAddresses(cfg Config) error {
	if areGone(cfg.Found) {
		slog.Warn("no interface has the node's address now, using the last one: connect the network or give --node-ip",
			"component", "brink", "address", nodeaddr.String(cfg.Found))
	}
	if len(cfg.Found) == 0 {
		return nil
	}
	return nodeaddr.Remember(cfg.Layout.NodeAddresses(), cfg.Found)
}

// movedServer watches the first address of a server. Its certificate, and the address
// by which pods and agents find the API, are made at the start for the one of then.
// When no link has it any more and there is another, because the DHCP server gives
// another, or because it had to start with its last one and the network has come with
// another, then it ends, for its service manager to start it again. Pods do not notice.
// The other must be seen twice: links come up in no order. A default route that goes
// over to another link changes nothing, nor does a second family.
func movedServer(begun []nodeaddr.Address, find func() ([]nodeaddr.Address, error), every time.Duration) lifecycle.Component {
	run := func(ctx context.Context, ready func()) error {
		ready()
		if len(begun) == 0 { // the user has said which it is
			<-ctx.Done()
			return nil
		}
		first, seen := begun[0], begun[0].IP
		for late := first.Gone; ; {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(every):
			}
			now := sameFamily(find, first.IP)
			switch {
			case now.Gone || !now.IP.IsValid(): // the cable is out
			case now.IP == first.IP:
				if late {
					slog.Info("the network has come with the node's last address", "component", "address", "address", first.IP)
				}
				late, seen = false, first.IP
			case now.IP != seen:
				seen = now.IP
			default:
				return fmt.Errorf("this server was started with %s of %s, which is in its certificate and what pods ask, and is at %s of %s now: start brink again",
					first.IP, first.Link, now.IP, now.Link)
			}
		}
	}
	return lifecycle.Component{Name: "address", Needs: lifecycle.Nothing, Run: run}
}

// sameFamily is what find finds of the family of ip, the zero Address for nothing.
func sameFamily(find func() ([]nodeaddr.Address, error), ip netip.Addr) nodeaddr.Address {
	found, _ := find()
	for _, a := range found {
		if a.IP.Is4() == ip.Is4() {
			return a
		}
	}
	return nodeaddr.Address{}
}
