package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"brink/internal/layout"
	"brink/internal/lifecycle"
	"brink/internal/nodeaddr"
)

// addressInterval is how often a server looks whether it has its address still.
const addressInterval = 5 * time.Second

func addressQuery(l layout.Layout, pods, services []netip.Prefix) nodeaddr.Query {
	return nodeaddr.Query{Families: pods, Inside: slices.Concat(pods, services), File: l.NodeAddresses()}
}

func (s settings) findAddresses() ([]nodeaddr.Address, error) {
	return nodeaddr.Find(addressQuery(s.layout, s.server.ClusterCIDRs, s.server.ServiceCIDRs))
}

func ipsOf(found []nodeaddr.Address) []netip.Addr {
	var out []netip.Addr
	for _, a := range found {
		out = append(out, a.IP)
	}
	return out
}

// findIPs finds the addresses of a running node, and remembers them for its next
// start.
func findIPs(l layout.Layout) func(pods, services []netip.Prefix) ([]netip.Addr, error) {
	return func(pods, services []netip.Prefix) ([]netip.Addr, error) {
		found, err := nodeaddr.Find(addressQuery(l, pods, services))
		if err != nil {
			return nil, err
		}
		if !areGone(found) {
			err = nodeaddr.Remember(l.NodeAddresses(), found)
		}
		return ipsOf(found), err
	}
}

// areGone tells addresses that the node had the last time and has not now.
func areGone(addrs []nodeaddr.Address) bool {
	return slices.ContainsFunc(addrs, func(a nodeaddr.Address) bool { return a.Gone })
}

// rememberAddresses keeps what was found for a start without a network, and
// tells when this is one.
func rememberAddresses(s settings) error {
	if areGone(s.found) {
		slog.Warn("no interface has the node's address now, using the last one: connect the network or give --node-ip",
			"component", "brink", "address", nodeaddr.String(s.found))
	}
	if len(s.found) == 0 {
		return nil
	}
	return nodeaddr.Remember(s.layout.NodeAddresses(), s.found)
}

// movedServer watches the addresses of a server. Its certificate, and the address by
// which pods and agents find the API, are made at the start for those of then. When
// it has others, because its DHCP server gives another, or because it had to start
// with its last one and the network has come with another, then it ends, for its
// service manager to start it again. Pods do not notice. What has changed must be
// seen twice: links come up in no order.
func movedServer(begun []nodeaddr.Address, find func() ([]nodeaddr.Address, error), every time.Duration) lifecycle.Component {
	run := func(ctx context.Context, ready func()) error {
		ready()
		late, seen := areGone(begun), ipsOf(begun)
		for len(begun) > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(every):
			}
			now, err := find()
			if err != nil || areGone(now) {
				continue
			}
			if ips := ipsOf(now); !slices.Equal(ips, seen) {
				seen = ips
				continue
			}
			switch {
			case !slices.Equal(seen, ipsOf(begun)):
				return fmt.Errorf("this server has the address %s now and was started with %s, which is in its certificate and what pods ask: start brink again",
					nodeaddr.String(now), nodeaddr.String(begun))
			case late:
				slog.Info("the network has come with the node's last address", "component", "address", "address", nodeaddr.String(now))
				late = false
			}
		}
		<-ctx.Done()
		return nil
	}
	return lifecycle.Component{Name: "address", Needs: lifecycle.Nothing, Run: run}
}
