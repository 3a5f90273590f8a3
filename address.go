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

// addressInterval is how often a node that started without a network looks
// whether it has one now.
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

// lateNetwork follows a node that had to start with its last address, as a board
// does that is faster than its DHCP server. When the network comes with another
// one, certificates, Services and the node object are made for an address that
// nobody has: then it ends, for its service manager to start it again. Pods do
// not notice.
func lateNetwork(begun []nodeaddr.Address, find func() ([]nodeaddr.Address, error), every time.Duration) lifecycle.Component {
	run := func(ctx context.Context, ready func()) error {
		ready()
		for areGone(begun) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(every):
			}
			now, err := find()
			if err != nil || areGone(now) {
				continue
			}
			if !slices.EqualFunc(now, begun, func(a, b nodeaddr.Address) bool { return a.IP == b.IP }) {
				return fmt.Errorf("the network has come with %s, but this node has started with its last address, %s: start brink again",
					nodeaddr.String(now), nodeaddr.String(begun))
			}
			slog.Info("the network has come with the node's last address", "component", "address", "address", nodeaddr.String(now))
			break
		}
		<-ctx.Done()
		return nil
	}
	return lifecycle.Component{Name: "address", Needs: lifecycle.Nothing, Run: run}
}
